//! Where a token may go, and for whom.

use serde::{Deserialize, Deserializer, Serialize, de};

use super::{CallerRule, PathPattern, Signing, Wider, list};
use crate::digest::Digest;
use crate::message::{Refusal, TokenRequest};
use crate::origin::Origin;
use crate::path::is_normalised;

/// Upper-case HTTP methods.
pub type Methods = Vec<String>;

/// The sealed rules of a token.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct TokenUse {
    /// The only origin that may see it.
    pub upstream: Origin,
    /// The CAs that may certify the upstream, as digests of their keys; `None`: the system's store too.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "one_or_more"
    )]
    pub ca: Option<Vec<Digest>>,
    /// `None`: every method.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "methods"
    )]
    pub methods: Option<Methods>,
    /// `None`: every path.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub paths: Option<Vec<PathPattern>>,
    /// `None`: any header.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub place: Option<Place>,
    /// The token is a key: what guard computes from it goes into requests, itself never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sign: Option<Signing>,
    /// Never empty: who may use it must be said.
    #[serde(deserialize_with = "callers")]
    pub callers: Vec<CallerRule>,
}

/// How a token is written into a request.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Place {
    /// The header's name, in any case.
    pub header: String,
    /// What stands before the token.
    #[serde(default)]
    pub scheme: Scheme,
}

/// What stands before the token in the header's value.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Scheme {
    /// `Bearer `.
    #[default]
    Bearer,
    /// Nothing.
    Raw,
}

/// One inject route of the configuration.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct InjectRule {
    /// The number that token requests use.
    pub id: u16,
    /// Place in the configuration, for messages.
    pub r#where: String,
    /// Name of the token in the bundle.
    pub secret: String,
    /// Where the request goes.
    pub upstream: Origin,
    /// The CAs that the configuration trusts for it; `None`: the system's store.
    pub ca: Option<Vec<Digest>>,
    /// `None`: the sealed ones.
    #[serde(default, deserialize_with = "methods")]
    pub methods: Option<Methods>,
    /// `None`: the sealed ones.
    #[serde(default)]
    pub paths: Option<Vec<PathPattern>>,
    /// Where egress writes the token.
    pub place: Place,
    /// Never empty.
    #[serde(deserialize_with = "callers")]
    pub callers: Vec<CallerRule>,
}

impl TokenUse {
    /// Read the `use` of a token.
    ///
    /// # Errors
    /// No JSON object, no upstream or callers, or a member that this build does not know.
    pub fn parse(json: &str) -> Result<Self, serde_json::Error> {
        super::parse_object(json)
    }

    /// The route asks for no more than was sealed.
    ///
    /// # Errors
    /// The first member that is wider.
    pub fn covers(&self, route: &InjectRule) -> Result<(), Wider> {
        let wider = |member: &str, asked: String, sealed: String| {
            Err(Wider::new(format!(
                "{member} is {asked}, token is sealed for {sealed}"
            )))
        };
        if route.upstream != self.upstream {
            return wider(
                "upstream",
                route.upstream.to_string(),
                self.upstream.to_string(),
            );
        }
        if let Some(sealed) = &self.ca {
            match &route.ca {
                None => return wider("ca", "the system's store".to_owned(), list(sealed)),
                Some(asked) if asked.iter().all(|ca| sealed.contains(ca)) => {}
                Some(asked) => return wider("ca", list(asked), list(sealed)),
            }
        }
        if let (Some(sealed), Some(asked)) = (&self.methods, &route.methods) {
            if !asked.iter().all(|method| sealed.contains(method)) {
                return wider("methods", list(asked), list(sealed));
            }
        }
        if let (Some(sealed), Some(asked)) = (&self.paths, &route.paths) {
            if !asked
                .iter()
                .all(|path| sealed.iter().any(|sealed| sealed.covers(path)))
            {
                return wider("paths", list(asked), list(sealed));
            }
        }
        if let Some(sealed) = &self.place {
            if !sealed.is_same(&route.place) {
                return wider("place", route.place.describe(), sealed.describe());
            }
        }
        if !route
            .callers
            .iter()
            .all(|caller| self.callers.iter().any(|sealed| sealed.covers(caller)))
        {
            return wider("callers", list(&route.callers), list(&self.callers));
        }
        Ok(())
    }

    /// The request lies within what was sealed.
    ///
    /// # Errors
    /// `Outside` or `Caller`.
    pub fn admits(&self, request: &TokenRequest<'_>) -> Result<(), Refusal> {
        Limits {
            upstream: &self.upstream,
            methods: self.methods.as_ref(),
            paths: self.paths.as_deref(),
            callers: &self.callers,
        }
        .admit(request)
    }
}

impl InjectRule {
    /// The request lies within the route.
    ///
    /// # Errors
    /// `Outside` or `Caller`.
    pub fn admits(&self, request: &TokenRequest<'_>) -> Result<(), Refusal> {
        Limits {
            upstream: &self.upstream,
            methods: self.methods.as_ref(),
            paths: self.paths.as_deref(),
            callers: &self.callers,
        }
        .admit(request)
    }
}

/// What sealed rules and routes have in common.
struct Limits<'a> {
    upstream: &'a Origin,
    methods: Option<&'a Methods>,
    paths: Option<&'a [PathPattern]>,
    callers: &'a [CallerRule],
}

impl Limits<'_> {
    fn admit(&self, request: &TokenRequest<'_>) -> Result<(), Refusal> {
        let is_same_upstream = request
            .upstream
            .parse::<Origin>()
            .is_ok_and(|origin| origin == *self.upstream);
        let is_method = self
            .methods
            .is_none_or(|methods| methods.iter().any(|method| method == request.method));
        let is_path = self
            .paths
            .is_none_or(|paths| paths.iter().any(|path| path.admits(request.path)));
        // Checked even where any path and method will do: egress must have normalised what it sends.
        if !is_same_upstream
            || !is_method
            || !is_path
            || !is_token(request.method)
            || !is_normalised(request.path)
        {
            return Err(Refusal::Outside);
        }
        if !self
            .callers
            .iter()
            .any(|caller| caller.admits(&request.caller))
        {
            return Err(Refusal::Caller);
        }
        Ok(())
    }
}

impl Place {
    fn is_same(&self, other: &Self) -> bool {
        self.header.eq_ignore_ascii_case(&other.header) && self.scheme == other.scheme
    }

    fn describe(&self) -> String {
        let scheme = match self.scheme {
            Scheme::Bearer => "bearer",
            Scheme::Raw => "raw",
        };
        format!("{} ({scheme})", self.header)
    }
}

/// Upper-case letters, at most 16: every registered method that is not WebDAV's longest.
fn is_token(method: &str) -> bool {
    (1..=16).contains(&method.len())
        && method
            .bytes()
            .all(|byte| byte.is_ascii_uppercase() || byte == b'-')
}

fn methods<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Methods>, D::Error> {
    let methods = Option::<Methods>::deserialize(deserializer)?;
    match &methods {
        Some(methods) if !methods.iter().all(|method| is_token(method)) => Err(de::Error::custom(
            "a method is written in upper-case letters",
        )),
        _ => Ok(methods),
    }
}

fn callers<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<CallerRule>, D::Error> {
    let callers = Vec::<CallerRule>::deserialize(deserializer)?;
    if callers.is_empty() {
        return Err(de::Error::custom(
            "callers is empty: say who may use the token, or \"anyone\"",
        ));
    }
    Ok(callers)
}

fn one_or_more<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<Vec<Digest>>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Written {
        One(Digest),
        More(Vec<Digest>),
    }
    Ok(
        Option::<Written>::deserialize(deserializer)?.map(|written| match written {
            Written::One(digest) => vec![digest],
            Written::More(digests) => digests,
        }),
    )
}

#[cfg(test)]
mod tests;
