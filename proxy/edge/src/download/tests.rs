use crate::credential::Credential;

use super::*;

const ROOM: usize = 256;

/// Feed the pieces one after the other; gives what the client sees.
fn run(download: &mut Download, pieces: &[&str]) -> Result<String, BadResponse> {
    let mut seen = Vec::new();
    for piece in pieces {
        let received = [&download.carry[..], piece.as_bytes()].concat();
        let mut buffer = vec![b'-'; ROOM];
        buffer.extend_from_slice(&received);
        buffer.resize(buffer.len() + TAILROOM, b'-');
        let sent = download.feed(&mut buffer, ROOM..ROOM + received.len(), &mut Vec::new())?;
        seen.extend_from_slice(&buffer[sent]);
    }
    Ok(String::from_utf8(seen).unwrap())
}

#[test]
fn body_of_known_length_is_passed_on_wherever_it_is_cut() {
    let whole = "HTTP/1.1 200 OK\r\nConnection: x\r\nContent-Length: 5\r\n\r\nhello";
    for cut in 1..whole.len() {
        let mut download = Download::new(false, false, false);
        let seen = run(&mut download, &[&whole[..cut], &whole[cut..]]).unwrap();

        assert_eq!(
            "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", seen,
            "cut at {cut}"
        );
        assert!(download.is_reusable() && !download.close);
    }
}

#[test]
fn chunked_body_goes_on_as_it_came_or_decoded_for_old_clients() {
    let whole =
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n";
    for cut in 1..whole.len() {
        let mut download = Download::new(false, false, false);
        assert_eq!(
            whole,
            run(&mut download, &[&whole[..cut], &whole[cut..]]).unwrap(),
            "cut at {cut}"
        );
        assert!(download.is_reusable() && !download.close);

        let mut old = Download::new(false, true, false);
        let seen = run(&mut old, &[&whole[..cut], &whole[cut..]]).unwrap();
        assert_eq!(
            "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nabcde", seen,
            "cut at {cut}"
        );
        assert!(old.close);
    }
}

#[test]
fn end_by_close_becomes_chunks_wherever_the_body_is_cut() {
    let whole = "HTTP/1.1 200 OK\r\nA: b\r\n\r\nhello";
    for cut in 1..whole.len() {
        let mut download = Download::new(false, false, false);
        let mut seen = run(&mut download, &[&whole[..cut], &whole[cut..]]).unwrap();
        assert!(!download.is_done());
        seen.push_str(std::str::from_utf8(&download.end().unwrap()).unwrap());

        let (head, body) = seen.split_at(seen.find("\r\n\r\n").unwrap() + 4);
        assert_eq!(
            "HTTP/1.1 200 OK\r\nA: b\r\nTransfer-Encoding: chunked\r\n\r\n",
            head
        );
        let mut body = body.as_bytes().to_vec();
        let content = Chunked::default().filter(&mut body, true).unwrap();
        assert_eq!(
            (&b"hello"[..], true),
            (&body[..content.kept], content.is_end),
            "cut at {cut}"
        );
        assert!(download.is_done() && !download.is_reusable() && !download.close);
    }
}

#[test]
fn end_by_close_closes_old_clients_too() {
    let mut download = Download::new(false, true, false);
    let seen = run(&mut download, &["HTTP/1.1 200 OK\r\n\r\nab", "cd"]).unwrap();

    assert_eq!("HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nabcd", seen);
    assert_eq!(Ok(Vec::new()), download.end());
    assert!(download.close && !download.is_reusable());
}

#[test]
fn interim_responses_come_before_the_final_one() {
    let mut download = Download::new(false, false, false);
    let seen = run(
        &mut download,
        &[
            "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n",
            "HTTP/1.1 204 No Content\r\n\r\n",
        ],
    );

    assert_eq!(
        "HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n",
        seen.unwrap()
    );
    assert_eq!(204, download.status);
}

#[test]
fn answer_to_head_has_no_body() {
    let mut download = Download::new(true, false, false);
    run(
        &mut download,
        &["HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n"],
    )
    .unwrap();

    assert!(download.is_reusable());
}

#[test]
fn surplus_bytes_spoil_the_connection_and_stay_out() {
    let mut download = Download::new(false, false, false);
    let seen = run(
        &mut download,
        &["HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\naHTTP/1.1 200 OK\r\n"],
    )
    .unwrap();

    assert!(seen.ends_with("\r\n\r\na"));
    assert!(download.is_done() && !download.is_reusable());
}

/// A response to a request that carried this token.
fn searched(token: &str) -> Download {
    Download::new(false, false, false).without_echo(Some(Echo {
        field: "Authorization".to_owned(),
        credential: Credential::new(&[("Authorization", "", token.as_bytes())], 0, 0).unwrap(),
    }))
}

#[test]
fn injected_token_does_not_come_back_in_any_head() {
    let mut download = searched("tok-1");
    let seen = run(
        &mut download,
        &[
            "HTTP/1.1 103 Hints\r\nLink: tok-1\r\n\r\n",
            "HTTP/1.1 204 No\r\nX: Bearer tok-1\r\nAuthorization: y\r\nZ: z\r\n\r\n",
        ],
    );

    assert_eq!(
        "HTTP/1.1 103 Hints\r\n\r\nHTTP/1.1 204 No\r\nZ: z\r\n\r\n",
        seen.unwrap()
    );
    assert!(download.echo.is_none());
}

#[test]
fn injected_token_does_not_come_back_in_a_body_wherever_it_is_cut() {
    let bodies = [
        (
            "Content-Length: 19",
            "got tok-12345 tok-1",
            "got ********* tok-1",
        ),
        (
            "Transfer-Encoding: chunked",
            "d\r\ngot tok-12345\r\n0\r\n\r\n",
            "d\r\ngot *********\r\n0\r\n\r\n",
        ),
    ];
    for (field, body, expected) in bodies {
        let whole = format!("HTTP/1.1 200 OK\r\n{field}\r\n\r\n{body}");
        for cut in 1..whole.len() {
            let mut download = searched("tok-12345");
            let seen = run(&mut download, &[&whole[..cut], &whole[cut..]]).unwrap();

            assert!(
                seen.ends_with(&format!("\r\n\r\n{expected}")),
                "cut at {cut}: {seen}"
            );
            assert!(download.is_reusable() && download.echo.is_none());
        }
    }
}

#[test]
fn front_of_a_token_at_the_very_end_is_passed_on() {
    let mut download = searched("tok-12345");
    let seen = run(&mut download, &["HTTP/1.1 200 OK\r\n\r\nfirst tok-1"]).unwrap();
    assert!(seen.ends_with("6\r\nfirst \r\n"), "{seen}");

    assert_eq!(b"5\r\ntok-1\r\n0\r\n\r\n"[..], download.end().unwrap()[..]);
}

#[test]
fn unfinished_and_wrong_responses_are_errors() {
    let mut download = Download::new(false, false, false);
    run(
        &mut download,
        &["HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nab"],
    )
    .unwrap();
    assert!(download.end().is_err());

    for wrong in [
        "SSH-2.0-x\r\n\r\n",
        "HTTP/1.1 101 Switching\r\n\r\n",
        "HTTP/1.1 000 Zero\r\n\r\nbody",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nz\r\n",
    ] {
        assert!(
            run(&mut Download::new(false, false, false), &[wrong]).is_err(),
            "{wrong}"
        );
    }
}
