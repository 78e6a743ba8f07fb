//! Responses of upstreams: wherever they are cut, clients see the same, and never the token.
#![no_main]

use libfuzzer_sys::fuzz_target;
use unlatch_edge::harness::pass_on;
use unlatch_edge::http::chunked::Chunked;
use unlatch_edge::http::response::Response;
use unlatch_edge::http::{Framing, MAX_HEADERS, storage};

const TOKEN: &[u8] = b"tok-1234";

fuzz_target!(|data: &[u8]| {
    let Some((&[how, cut], bytes)) = data.split_first_chunk::<2>() else {
        return;
    };
    let (to_head, is_http10) = (how & 1 != 0, how & 2 != 0);
    let token = if how & 4 != 0 { TOKEN } else { b"" };
    let cut = usize::from(cut).min(bytes.len());
    let pieces = [&bytes[..cut], &bytes[cut..]];
    if bytes.iter().filter(|byte| **byte == b'\n').count() > MAX_HEADERS - 2 {
        // With the fields that the proxy adds there would be more than it reads itself.
        return;
    }
    let Some((whole, is_complete)) = pass_on(&[bytes], to_head, is_http10, token) else {
        return;
    };
    // A client that reads them gets head after head and one body.
    let (mut at, mut status) = (0, 0);
    while status < 200 {
        let mut room = storage();
        let Ok(Some(head)) = Response::parse(&whole[at..], &mut room, to_head) else {
            assert!(
                status < 200 && !is_complete && whole.len() == at,
                "a head that we wrote"
            );
            return;
        };
        let text = &whole[at..at + head.length];
        assert!(token.is_empty() || !text.windows(TOKEN.len()).any(|part| part == TOKEN));
        (at, status) = (at + head.length, head.status);
        if status >= 200 {
            check_body(head.framing, &whole[at..], is_complete);
            let body = &whole[at..];
            assert!(token.is_empty() || !body.windows(TOKEN.len()).any(|part| part == TOKEN));
        }
    }
    if let Some((cut, is_cut_complete)) = pass_on(&pieces, to_head, is_http10, token) {
        assert_eq!(is_complete, is_cut_complete);
        assert!(cut.starts_with(&whole[..at]), "a cut changes the head");
    }
});

fn check_body(framing: Framing, body: &[u8], is_complete: bool) {
    match framing {
        Framing::Empty => assert!(body.is_empty() && is_complete),
        Framing::Length(length) => assert_eq!(is_complete, body.len() as u64 == length),
        Framing::Chunked => {
            let mut body = body.to_vec();
            let filtered = Chunked::default()
                .filter(&mut body, true)
                .expect("chunks that we wrote");
            assert_eq!((is_complete, body.len()), (filtered.is_end, filtered.used));
        }
        Framing::UntilClose => {}
    }
}
