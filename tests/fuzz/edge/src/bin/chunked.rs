//! Chunked bodies: wherever they are cut, the same content; and what is passed on says the same again.
#![no_main]

use libfuzzer_sys::fuzz_target;
use unlatch_edge::http::chunked::{BadChunk, Chunked};

/// What is kept, how much is used, and whether the body ended.
fn run(body: &[u8], step: usize, content_only: bool) -> Result<(Vec<u8>, usize, bool), BadChunk> {
    let (mut chunked, mut kept, mut used) = (Chunked::default(), Vec::new(), 0);
    for part in body.chunks(step) {
        let mut part = part.to_vec();
        let filtered = chunked.filter(&mut part, content_only)?;
        kept.extend_from_slice(&part[..filtered.kept]);
        used += filtered.used;
        if filtered.is_end {
            return Ok((kept, used, true));
        }
        assert_eq!(
            part.len(),
            filtered.used,
            "an unfinished body takes everything"
        );
    }
    Ok((kept, used, false))
}

fuzz_target!(|data: &[u8]| {
    let Some((&step, body)) = data.split_first() else {
        return;
    };
    let step = usize::from(step % 16) + 1;
    let content = run(body, body.len().max(1), true);
    assert_eq!(content, run(body, step, true), "a cut changes the content");
    let coded = run(body, step, false);
    assert_eq!(content.is_ok(), coded.is_ok());
    if let (Ok((content, used, true)), Ok((coded, _, _))) = (content, coded) {
        assert!(used <= body.len() && coded.len() <= used);
        assert_eq!(Ok((content, coded.len(), true)), run(&coded, step, true));
        assert!(coded.ends_with(b"0\r\n\r\n"));
    }
});
