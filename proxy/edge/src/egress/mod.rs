//! The role that puts tokens into requests.

use crate::config::Config;
use crate::error::StartError;
use crate::shared::Live;
use crate::worker::Worker;

/// What only egress has.
pub(crate) struct EgressLive {}

pub(crate) fn build(_config: &Config, _generation: u64) -> Result<Live, StartError> {
    Err(StartError::Usage("later"))
}

pub(crate) fn accept_all(_worker: &'static Worker) -> std::io::Result<impl Future<Output = ()> + 'static> {
    Ok(async {})
}
