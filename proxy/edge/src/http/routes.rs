//! Which route a request takes: the first that matches.

/// What a request must look like; everything that is given must hold.
#[derive(Debug, Clone, Default)]
pub struct Pattern {
    listener: Option<String>,
    host: Option<Host>,
    path: Option<Path>,
}

#[derive(Debug, Clone)]
enum Host {
    Exact(String),
    /// `*.example`: the part from the dot on.
    Under(String),
}

#[derive(Debug, Clone)]
enum Path {
    Exact(String),
    /// `/x/*`: the part up to and with the last slash.
    Under(String),
}

impl Pattern {
    /// From the configuration's words: `*.name` for one or more labels, `/x/*` for everything below `/x/`.
    #[must_use]
    pub fn new(listener: Option<&str>, host: Option<&str>, path: Option<&str>) -> Self {
        let host = host
            .map(str::to_ascii_lowercase)
            .map(|host| match host.strip_prefix('*') {
                Some(suffix) => Host::Under(suffix.to_owned()),
                None => Host::Exact(host),
            });
        let path = path.map(|path| match path.strip_suffix('*') {
            Some(prefix) => Path::Under(prefix.to_owned()),
            None => Path::Exact(path.to_owned()),
        });
        Self {
            listener: listener.map(str::to_owned),
            host,
            path,
        }
    }

    /// Whether a request on `listener` for `host` (with or without port) and `path` matches.
    #[must_use]
    pub fn matches(&self, listener: &str, host: &str, path: &str) -> bool {
        self.listener
            .as_deref()
            .is_none_or(|wanted| wanted == listener)
            && self
                .host
                .as_ref()
                .is_none_or(|wanted| wanted.matches(without_port(host)))
            && self.path.as_ref().is_none_or(|wanted| wanted.matches(path))
    }
}

impl Host {
    fn matches(&self, host: &str) -> bool {
        match self {
            Self::Exact(wanted) => host.eq_ignore_ascii_case(wanted),
            Self::Under(suffix) => {
                host.len() > suffix.len()
                    && host
                        .get(host.len() - suffix.len()..)
                        .is_some_and(|end| end.eq_ignore_ascii_case(suffix))
            }
        }
    }
}

impl Path {
    fn matches(&self, path: &str) -> bool {
        match self {
            Self::Exact(wanted) => path == wanted,
            Self::Under(prefix) => path.starts_with(prefix),
        }
    }
}

/// `name` of `name:port`, `[::1]` of `[::1]:port`; a final dot is dropped.
#[must_use]
pub fn without_port(host: &str) -> &str {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    };
    name.strip_suffix('.').unwrap_or(name)
}

/// `path` without `prefix`, whole segments only: `/psp` of `/psp/v1` gives `/v1`, of `/pspx` nothing.
#[must_use]
pub fn strip_prefix<'p>(path: &'p str, prefix: &str) -> Option<&'p str> {
    match path.strip_prefix(prefix.strip_suffix('/').unwrap_or(prefix))? {
        "" => Some("/"),
        rest if rest.starts_with('/') => Some(rest),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_match_exactly_or_below_a_star() {
        let cases = [
            ("pay.example", "PAY.example:8443", true),
            ("pay.example", "pay.example.", true),
            ("pay.example", "xpay.example", false),
            ("*.example", "a.b.Example", true),
            ("*.example", "example", false),
            ("*.example", ".example", false),
            ("[::1]", "[::1]:443", true),
        ];
        for (wanted, host, expected) in cases {
            assert_eq!(
                expected,
                Pattern::new(None, Some(wanted), None).matches("l", host, "/"),
                "{wanted} {host}"
            );
        }
    }

    #[test]
    fn paths_match_exactly_or_below_a_slash() {
        let cases = [
            ("/x/*", "/x/", true),
            ("/x/*", "/x/y/z", true),
            ("/x/*", "/x", false),
            ("/x", "/x", true),
            ("/x", "/x/", false),
            ("/*", "/", true),
        ];
        for (wanted, path, expected) in cases {
            assert_eq!(
                expected,
                Pattern::new(None, None, Some(wanted)).matches("l", "h", path),
                "{wanted} {path}"
            );
        }
    }

    #[test]
    fn everything_given_must_hold() {
        let pattern = Pattern::new(Some("a:1"), Some("h"), Some("/p"));

        assert!(pattern.matches("a:1", "h", "/p"));
        assert!(!pattern.matches("a:2", "h", "/p"));
        assert!(!pattern.matches("a:1", "x", "/p"));
        assert!(!pattern.matches("a:1", "h", "/q"));
        assert!(Pattern::default().matches("any", "any", "/any"));
    }

    #[test]
    fn prefix_goes_by_whole_segments() {
        assert_eq!(Some("/v1"), strip_prefix("/psp/v1", "/psp"));
        assert_eq!(Some("/"), strip_prefix("/psp", "/psp"));
        assert_eq!(None, strip_prefix("/pspx", "/psp"));
        assert_eq!(Some("/v1"), strip_prefix("/psp/v1", "/psp/"));
    }
}
