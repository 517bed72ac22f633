//! From the body of a request to the call that it makes, and its answer.

use super::answer::Answer;
use super::call::{self, Call};
use super::error::ApiError;
use super::params::{Params, object_of};
use super::state::Api;
use super::{batch, publish};

impl Api {
    /// Carries out a call of the mesh.
    pub(super) async fn call(&self, call: Call, body: &[u8]) -> Answer {
        if !self.mesh.is_serving() {
            return Answer::failure(&ApiError::Joining, None);
        }
        // An empty array of publishes is reported as such.
        let object = if call == Call::Publish { body } else { object_of(body) };
        let params = match Params::parse(object, "the body") {
            Ok(params) => params,
            // Everything rarer than a plain publish is boxed, so that a connection does not reserve memory for it.
            Err(_) if call == Call::Publish && batch::is_array(body) => {
                return Box::pin(batch::answer(self, body)).await;
            }
            Err(error) => return Answer::failure(&error, None),
        };
        match call {
            Call::Publish if params.is_plain() => {
                Answer::to_call(call::publish(&self.mesh, &self.counts.published, &params).await, params.request_id())
            }
            Call::Publish => Answer::to_call(Box::pin(publish::publish(self, &params)).await, params.request_id()),
            Call::Send => Answer::to_call(call::send(&self.mesh, &params).await, params.request_id()),
        }
    }
}
