//! One request from edge, read anew: what the upstream will get, and what guard is told of it.

use unlatch_protocol::path::Target as RequestTarget;
use unlatch_protocol::{AuthorizeRequest, Caller, Request as Question, TokenRequest};

use super::Route;
use super::gather::Gathered;
use super::inject::{self, NoCredential};
use super::upstream::Target;
use crate::config::Ask;
use crate::credential::Credential;
use crate::http::forward::{Forward, write_framing};
use crate::http::request::Request;
use crate::http::{Framing, MAX_HEADERS, storage};
use crate::worker::Worker;

/// See the module.
pub(crate) struct Asked {
    /// Line and fields for the upstream, without the credential and the end.
    pub(crate) head: Vec<u8>,
    pub(crate) method: String,
    path: String,
    query: String,
    /// Fields that guard covers, names in lower case.
    covered: Vec<(String, String)>,
    pub(crate) framing: Framing,
    pub(crate) expects_continue: bool,
    pub(crate) is_repeatable: bool,
    caller: Caller,
    /// The body, where it was held back, and its digest.
    gathered: Option<Gathered>,
}

impl Asked {
    /// Gives the status of a refusal.
    pub(crate) fn read(
        head: &[u8],
        caller: Caller,
        route: &Route,
        target: &Target,
    ) -> Result<Self, u16> {
        let mut room = storage();
        let request =
            Request::parse(head, &mut room, MAX_HEADERS).map_err(|reject| reject.status())?;
        let path = RequestTarget::parse(request.path.as_bytes()).map_err(|_| 400_u16)?;
        if request.is_absolute {
            return Err(400);
        }
        let how = Forward {
            path: path.path(),
            host: &target.host,
            client: None,
            placeholders: &route.placeholders,
            // Only what was searched whole comes back without the secret.
            is_whole: route.ask != Ask::Nothing,
        };
        let mut upward = Vec::new();
        how.write_fields(&request, &mut upward);
        Ok(Self {
            head: upward,
            method: request.method.to_owned(),
            path: path.path().to_owned(),
            query: request.query.unwrap_or_default().to_owned(),
            covered: covered(&how, &request, route).ok_or(400_u16)?,
            framing: request.framing,
            expects_continue: request.expects_continue,
            is_repeatable: request.is_repeatable(),
            caller,
            gathered: None,
        })
    }

    /// Say how the body is framed; where it was held back, by its length.
    pub(crate) fn frame(&mut self, gathered: Option<Gathered>) {
        if let (Some(gathered), Framing::Chunked) = (&gathered, self.framing) {
            self.framing = Framing::Length(gathered.bytes.len() as u64);
        }
        write_framing(&self.method, self.framing, &mut self.head);
        self.gathered = gathered;
    }

    /// What goes up first, and how what follows is framed. Only right once where there is a body.
    pub(crate) fn take_body(&mut self) -> (Vec<u8>, Framing) {
        match &mut self.gathered {
            Some(gathered) => (std::mem::take(&mut gathered.bytes), Framing::Empty),
            None => (Vec::new(), self.framing),
        }
    }

    /// Ask guard.
    pub(crate) fn credential(
        &self,
        worker: &Worker,
        route: &Route,
        target: &Target,
    ) -> Result<Credential, NoCredential> {
        let request = TokenRequest {
            route: route.id,
            method: &self.method,
            upstream: &target.origin,
            path: &self.path,
            caller: self.caller.clone(),
        };
        let question = match route.ask {
            Ask::Nothing => return Ok(Credential::default()),
            Ask::Token => Question::Token(request),
            Ask::Authorize => Question::Authorize(AuthorizeRequest {
                request,
                query: &self.query,
                body: self.gathered.as_ref().map(|gathered| &gathered.digest),
                headers: self
                    .covered
                    .iter()
                    .map(|(name, value)| (name.as_str(), value.as_str()))
                    .collect(),
            }),
        };
        inject::fetch(worker, route, &question)
    }
}

/// Nothing where a value is no text.
fn covered(
    how: &Forward<'_>,
    request: &Request<'_, '_>,
    route: &Route,
) -> Option<Vec<(String, String)>> {
    let Some(prefix) = &route.covers else {
        return Some(Vec::new());
    };
    how.passing(request)
        .map(|header| (header.name.to_ascii_lowercase(), header.value))
        .filter(|(name, _)| name.starts_with(prefix))
        .map(|(name, value)| Some((name, String::from_utf8(value.to_vec()).ok()?)))
        .collect()
}
