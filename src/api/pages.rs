//! Calls that a web page can make. A browser lets any page send requests to any address, including this machine's own,
//! and open WebSockets there (RFC 6455, section 10.2). The headers that it adds tell such calls from those of other
//! programs. A page may call only if its origin is among `access.origins`, or if it is one of the center's own and calls what
//! they need.

use hyper::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_MAX_AGE,
    ACCESS_CONTROL_REQUEST_METHOD, HOST, HeaderMap, HeaderName, HeaderValue, ORIGIN, TRANSFER_ENCODING, VARY,
};
use hyper::{Method, Request, Version};

use super::callers::Caller;
use super::error::ApiError;
use crate::config::Config;
use crate::wire::handshake::{UNKNOWN_CODING, is_known_coding, is_listed, shown};
use crate::wire::host::{self, Host};

/// How the calling page is related to the server that it calls, as browsers say it (Fetch Metadata, section 2.4).
const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");
/// What a browser asks for, and what for.
const SEC_FETCH_MODE: HeaderName = HeaderName::from_static("sec-fetch-mode");
const SEC_FETCH_DEST: HeaderName = HeaderName::from_static("sec-fetch-dest");

/// The methods that a page may use. Those that need no preflight are named too: it does no harm.
const METHODS: HeaderValue = HeaderValue::from_static("GET, HEAD, POST");
const HEADERS: HeaderValue = HeaderValue::from_static("authorization, content-type, traceparent, tracestate");
/// How long a browser need not ask again, in seconds.
const MAX_AGE: HeaderValue = HeaderValue::from_static("600");

/// Checks a request against the rules that every HTTP server must enforce: one host (RFC 9112, section 3.2), and a body
/// that it can read (section 6.1).
pub(super) fn check_form<B>(request: &Request<B>) -> Result<Option<Host<'_>>, ApiError> {
    let all = |name| request.headers().get_all(name).into_iter().map(HeaderValue::as_bytes);
    let minor = u8::from(request.version() != Version::HTTP_10);
    let authority = request.uri().authority().map(|authority| authority.as_str());
    let host = host::of_request(minor, all(HOST), authority).map_err(ApiError::BadRequest)?;
    match is_known_coding(all(TRANSFER_ENCODING)) {
        true => Ok(host),
        false => Err(ApiError::NotImplemented(UNKNOWN_CODING)),
    }
}

/// What a request is for, as far as pages of the same port are concerned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Target {
    /// Something that they do not call.
    Other,
    /// A call that they make.
    OwnCall,
    /// A page itself.
    OwnPage,
}

/// Refuses calls of pages that may not call. Returns the origin of a listed page that may; None: no page calls, or one of
/// the same port.
pub(super) fn check_page(
    headers: &HeaderMap,
    host: Option<Host<'_>>,
    config: &Config,
    caller: Caller,
    target: Target,
) -> Result<Option<HeaderValue>, ApiError> {
    let mut listed = None;
    for origin in headers.get_all(ORIGIN) {
        if target != Target::Other && is_own(origin.as_bytes(), headers) {
            continue;
        }
        if !is_listed(origin.as_bytes(), &config.origins) {
            let origin = shown(origin.as_bytes());
            let why = format!("pages of the origin \"{origin}\" may not call here: it is not among access.origins");
            return Err(ApiError::Forbidden(why.into()));
        }
        listed = Some(origin.clone());
    }
    // With a listed origin, this header adds nothing.
    let is_opened = target == Target::OwnPage && is_opened(headers);
    for site in headers.get_all(SEC_FETCH_SITE) {
        if listed.is_none() && !is_opened && !["none", "same-origin"].iter().any(|fine| site == *fine) {
            let site = shown(site.as_bytes());
            let why = format!("pages of other origins may not call here (Sec-Fetch-Site: {site}), see access.origins");
            return Err(ApiError::Forbidden(why.into()));
        }
    }
    match host {
        Some(Host::Name(name)) if !may_be_called(host, config, caller) => {
            let name = shown(name.as_bytes());
            let why = format!(
                "\"{name}\" is no name of this API, which has no users: call it by its IP address or as localhost, or set \
                 access.users or cluster.advertise.api"
            );
            Err(ApiError::Forbidden(why.into()))
        }
        _ => Ok(listed),
    }
}

/// Whether the browser opens it in place of another page, as somebody has followed a link there (Fetch Metadata, sections 2.1
/// and 2.2). The page that had the link sees nothing of it.
fn is_opened(headers: &HeaderMap) -> bool {
    let is = |name, value: &str| headers.get(name).is_some_and(|given| given == value);
    is(SEC_FETCH_MODE, "navigate") && is(SEC_FETCH_DEST, "document")
}

/// Whether that is the origin of the address that is called: pages of the same port have it. (The port has either TLS or not,
/// so that the scheme tells nothing more.) No page can make a browser send another origin or host than those that there are.
fn is_own(origin: &[u8], headers: &HeaderMap) -> bool {
    let origin = origin.strip_prefix(b"http://").or_else(|| origin.strip_prefix(b"https://"));
    origin.is_some_and(|at| headers.get(HOST).is_some_and(|host| host.as_bytes().eq_ignore_ascii_case(at)))
}

/// Whether the API may be called by that host name. A page can make a name of its own resolve to this machine (DNS
/// rebinding); its browser then takes the API for the page's own server. So an open API that is reached over loopback
/// answers only to addresses, to localhost and to its configured name.
pub(super) fn may_be_called(host: Option<Host<'_>>, config: &Config, caller: Caller) -> bool {
    let Some(host) = host.filter(|host| !host.is_address_or_localhost()) else { return true };
    let open = config.users.is_empty() && caller.local.to_canonical().is_loopback();
    let advertised = config.cluster.advertise.as_deref().and_then(|at| at.rsplit_once(':')).map(|(name, _)| name);
    !open || advertised.is_some_and(|name| host.is_named(name))
}

/// Whether a page's browser asks first whether the page may call (Fetch, section 3.2.2).
pub(super) fn is_preflight<B>(request: &Request<B>) -> bool {
    request.method() == Method::OPTIONS && request.headers().contains_key(ACCESS_CONTROL_REQUEST_METHOD)
}

/// Lets a listed page see the response.
pub(super) fn share(headers: &mut HeaderMap, origin: HeaderValue) {
    headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin);
    headers.append(VARY, HeaderValue::from_static("origin"));
}

/// Lets a listed page make the call that its browser asks about.
pub(super) fn allow(headers: &mut HeaderMap) {
    headers.insert(ACCESS_CONTROL_ALLOW_METHODS, METHODS);
    headers.insert(ACCESS_CONTROL_ALLOW_HEADERS, HEADERS);
    headers.insert(ACCESS_CONTROL_MAX_AGE, MAX_AGE);
}
