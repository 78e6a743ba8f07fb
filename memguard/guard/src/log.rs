//! One JSON line for each event, on standard error. Never pass a secret.

use std::io::Write;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

/// Write `{"t", "process": "guard", "event", …}` with the members of `fields`. A closed standard error is ignored.
pub(crate) fn event(name: &str, fields: Value) {
    let since_epoch = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    let mut line = json!({"t": timestamp(since_epoch), "process": "guard", "event": name});
    if let (Value::Object(line), Value::Object(fields)) = (&mut line, fields) {
        line.extend(fields);
    }
    let _ = std::io::stderr().write_all(format!("{line}\n").as_bytes());
}

/// RFC 3339 in UTC with milliseconds.
fn timestamp(since_epoch: Duration) -> String {
    let (year, month, day, hour, minute, second) = civil(since_epoch.as_secs());
    let milliseconds = since_epoch.subsec_millis();
    format!(
        "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{milliseconds:03}+00:00"
    )
}

/// Year, month, day, hour, minute and second in UTC of a second since 1970.
pub(crate) fn civil(seconds: u64) -> (u64, u64, u64, u64, u64, u64) {
    let (year, month, day) = date(seconds / 86400);
    let (hour, minute, second) = (seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
    (year, month, day, hour, minute, second)
}

/// Gregorian date of a day since 1970-01-01: eras of 400 years that begin on 1 March.
fn date(days: u64) -> (u64, u64, u64) {
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 {
        month_from_march + 3
    } else {
        month_from_march - 9
    };
    (era * 400 + year_of_era + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_as_rfc_3339() {
        for (seconds, text) in [
            (0, "1970-01-01T00:00:00.250+00:00"),
            (951_782_399, "2000-02-28T23:59:59.250+00:00"),
            (951_782_400, "2000-02-29T00:00:00.250+00:00"),
            (1_709_251_199, "2024-02-29T23:59:59.250+00:00"),
            (1_795_596_161, "2026-11-25T08:42:41.250+00:00"),
            (4_107_542_400, "2100-03-01T00:00:00.250+00:00"),
        ] {
            assert_eq!(timestamp(Duration::new(seconds, 250_000_000)), text);
        }
    }
}
