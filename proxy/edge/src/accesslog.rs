//! Access lines: JSON, gathered per worker, written by a thread of their own.
//!
//! A log that nobody reads must not stop the proxy: when the writer cannot keep up, whole batches are dropped and
//! counted. A line never holds a query, a header field or a body.

use std::cell::{Cell, RefCell};
use std::fs::File;
use std::io::Write as _;
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::counters::Count;
use crate::worker;

/// A batch goes to the writer at this size, or at the next tick.
const BATCH: usize = 32 * 1024;
/// Batches that may wait for the writer.
const WAITING: usize = 64;

/// Where batches go.
#[derive(Clone)]
pub(crate) struct LogSink {
    sender: SyncSender<Vec<u8>>,
}

/// The end of the writer, to wait for.
pub(crate) struct LogWriter {
    ended: Receiver<()>,
}

impl LogSink {
    /// A sink into an open file, with its writer.
    pub(crate) fn start(file: OwnedFd) -> std::io::Result<(Self, LogWriter)> {
        let (sender, batches) = sync_channel(WAITING);
        let (end, ended) = sync_channel(1);
        std::thread::Builder::new()
            .name("log".to_owned())
            .spawn(move || {
                write_all(&batches, file.into());
                drop(end);
            })?;
        Ok((Self { sender }, LogWriter { ended }))
    }

    /// Let the writer end behind what it was given, and wait for that, but not for a reader that sleeps.
    pub(crate) fn finish(&self, writer: &LogWriter) {
        const PATIENCE: Duration = Duration::from_secs(1);
        if self.sender.try_send(Vec::new()).is_ok() {
            // Either way there is nothing left to do.
            let _ = writer.ended.recv_timeout(PATIENCE);
        }
    }
}

/// An empty batch is the last one.
fn write_all(batches: &Receiver<Vec<u8>>, mut file: File) {
    for batch in batches {
        if batch.is_empty() || file.write_all(&batch).is_err() {
            // Without a reader lines are dropped from here on, and the proxy goes on.
            return;
        }
    }
}

/// What one line says.
pub(crate) struct Line<'a> {
    pub(crate) listener: &'a str,
    pub(crate) server_name: Option<&'a str>,
    pub(crate) client: IpAddr,
    pub(crate) method: &'a str,
    pub(crate) host: &'a str,
    pub(crate) path: &'a str,
    pub(crate) status: u16,
    /// Bytes sent to the client, before encryption.
    pub(crate) bytes: u64,
    pub(crate) duration: Duration,
    pub(crate) upstream: Option<&'a str>,
    pub(crate) tls: &'a str,
    pub(crate) cipher: &'a str,
    pub(crate) resumed: bool,
    /// Why the request did not go as asked.
    pub(crate) error: Option<&'a str>,
}

/// Lines of one worker that wait to be written.
pub(crate) struct LogBuffer {
    sink: LogSink,
    batch: RefCell<Vec<u8>>,
    clock: Cell<(u64, [u8; 19])>,
}

impl LogBuffer {
    pub(crate) fn new(sink: LogSink) -> Self {
        Self {
            sink,
            batch: RefCell::default(),
            clock: Cell::new((u64::MAX, [0; 19])),
        }
    }

    /// Add a line.
    pub(crate) fn add(&self, line: &Line<'_>) {
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        let mut batch = self.batch.borrow_mut();
        write_line(
            line,
            &self.timestamp(now.as_secs()),
            now.subsec_millis(),
            &mut batch,
        );
        if batch.len() >= BATCH {
            self.send(&mut batch);
        }
    }

    /// Hand over what there is.
    pub(crate) fn flush(&self) {
        let mut batch = self.batch.borrow_mut();
        if !batch.is_empty() {
            self.send(&mut batch);
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.batch.borrow().is_empty()
    }

    fn send(&self, batch: &mut Vec<u8>) {
        if self.sink.sender.try_send(std::mem::take(batch)).is_err() {
            worker::counters().add(Count::LogDropped);
        }
    }

    /// Date and time to the second, computed once a second.
    fn timestamp(&self, seconds: u64) -> [u8; 19] {
        let (known, text) = self.clock.get();
        if known == seconds {
            return text;
        }
        let text = date_time(seconds);
        self.clock.set((seconds, text));
        text
    }
}

fn write_line(line: &Line<'_>, date_time: &[u8; 19], milliseconds: u32, out: &mut Vec<u8>) {
    out.reserve(512);
    out.extend_from_slice(b"{\"time\":\"");
    out.extend_from_slice(date_time);
    // Writing to a Vec does not fail; so below.
    let _ = write!(out, ".{milliseconds:03}Z\",\"event\":\"request\"");
    text(out, "listener", line.listener);
    optional(out, "sni", line.server_name);
    let _ = write!(out, ",\"client\":\"{}\"", line.client);
    text(out, "method", line.method);
    text(out, "host", line.host);
    text(out, "path", line.path);
    let micros = line.duration.as_micros();
    let _ = write!(
        out,
        ",\"status\":{},\"bytes\":{},\"duration_ms\":{}.{:03}",
        line.status,
        line.bytes,
        micros / 1000,
        micros % 1000
    );
    optional(out, "upstream", line.upstream);
    text(out, "tls", line.tls);
    text(out, "cipher", line.cipher);
    let _ = write!(out, ",\"resumed\":{}", line.resumed);
    if line.error.is_some() {
        optional(out, "error", line.error);
    }
    out.extend_from_slice(b"}\n");
}

fn optional(out: &mut Vec<u8>, name: &str, value: Option<&str>) {
    match value {
        Some(value) => text(out, name, value),
        None => {
            let _ = write!(out, ",\"{name}\":null");
        }
    }
}

/// A JSON member. Peers chose some of the values: everything but plain ASCII is escaped.
fn text(out: &mut Vec<u8>, name: &str, value: &str) {
    out.extend_from_slice(b",\"");
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b"\":\"");
    let is_plain = |byte: u8| (0x20..0x7f).contains(&byte) && byte != b'"' && byte != b'\\';
    if value.bytes().all(is_plain) {
        out.extend_from_slice(value.as_bytes());
    } else {
        for unit in value.encode_utf16() {
            match u8::try_from(unit) {
                Ok(byte) if is_plain(byte) => out.push(byte),
                _ => {
                    let _ = write!(out, "\\u{unit:04x}");
                }
            }
        }
    }
    out.push(b'"');
}

/// `2026-01-31T23:59:59` of seconds since 1970, by Howard Hinnant's `civil_from_days`.
fn date_time(seconds: u64) -> [u8; 19] {
    let days = seconds / 86400 + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 {
        shifted + 3
    } else {
        shifted - 9
    };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    let (hour, minute, second) = (seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
    let mut text = *b"0000-00-00T00:00:00";
    for (end, mut value) in [
        (3, year),
        (6, month),
        (9, day),
        (12, hour),
        (15, minute),
        (18, second),
    ] {
        let mut place = end;
        while value > 0 {
            text[place] = b'0' + u8::try_from(value % 10).unwrap_or(0);
            value /= 10;
            place = place.saturating_sub(1);
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_right_around_their_edges() {
        let cases = [
            (0, "1970-01-01T00:00:00"),
            (951_782_399, "2000-02-28T23:59:59"),
            (951_782_400, "2000-02-29T00:00:00"),
            (1_798_761_599, "2026-12-31T23:59:59"),
            (4_107_542_400, "2100-03-01T00:00:00"),
        ];
        for (seconds, expected) in cases {
            assert_eq!(expected.as_bytes(), date_time(seconds));
        }
    }

    #[test]
    fn line_is_json_whatever_peers_chose() {
        let line = Line {
            listener: "l",
            server_name: Some("a\"b"),
            client: "::1".parse().unwrap(),
            method: "GET",
            host: "h\\",
            path: "/\n\u{1f600}",
            status: 200,
            bytes: 3,
            duration: Duration::from_micros(1050),
            upstream: None,
            tls: "1.3",
            cipher: "c",
            resumed: false,
            error: None,
        };
        let mut out = Vec::new();
        write_line(&line, &date_time(0), 7, &mut out);
        let value: serde_json::Value = serde_json::from_slice(&out).unwrap();

        assert_eq!("1970-01-01T00:00:00.007Z", value["time"]);
        assert_eq!("a\"b", value["sni"]);
        assert_eq!("h\\", value["host"]);
        assert_eq!("/\n\u{1f600}", value["path"]);
        assert_eq!(1.05, value["duration_ms"]);
        assert_eq!(serde_json::Value::Null, value["upstream"]);
        assert_eq!(1, out.iter().filter(|byte| **byte == b'\n').count());
    }
}
