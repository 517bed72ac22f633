//! The course of a request: it is sent, sent once more if a kept connection ended under it, and follows redirects until
//! a response has been read whole.

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::{Body, Incoming};
use hyper::header::{
    AUTHORIZATION, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, COOKIE, HOST, HeaderMap, HeaderName, HeaderValue,
    LOCATION, PROXY_AUTHORIZATION,
};
use hyper::{Method, StatusCode};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use url::{Position, Url};

use super::pool::{Conn, Place, Pool};
use super::{MAX_BODY, Request, Response, cookies_of, headers_of, reason, reserve};

/// The longest body of a redirect that is read, so that its connection can be used again.
const MAX_REDIRECT_BODY: u64 = 64 * 1024;

/// The header by which a script says that a request may be sent twice, because the server recognises it.
const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
/// The one in which a server says how long it keeps an idle connection.
const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");

/// Sends a request and reads the whole response. `bytes`: what all bodies may have together; `held`: the request's
/// share.
pub(super) async fn exchange(
    pool: Arc<Pool>,
    mut request: Request,
    bytes: Arc<Semaphore>,
    mut held: OwnedSemaphorePermit,
) -> Result<Response, String> {
    let mut followed = 0;
    loop {
        let place = Place::of(&request.url).ok_or("no host of a URL")?;
        let (head, conn) = send(&pool, &place, &request).await?;
        let (head, mut body) = head.into_parts();
        let keep = request.idle.min(kept_by_server(&head.headers));
        if request.follow > 0
            && let Some(next) = redirect(head.status, &head.headers, &request.url)
        {
            if followed == request.follow {
                return Err(format!("more than {followed} redirects"));
            }
            followed += 1;
            if body.size_hint().exact().is_some_and(|length| length <= MAX_REDIRECT_BODY) {
                while body.frame().await.transpose().map_err(|e| reason(&e))?.is_some() {}
                pool.put(place, conn, keep).await;
            }
            follow(&mut request, head.status, next);
            continue;
        }
        let too_large = || format!("the response's body has more than {MAX_BODY} bytes");
        if body.size_hint().lower() > MAX_BODY as u64 {
            return Err(too_large());
        }
        let mut whole = Vec::new();
        while let Some(frame) = body.frame().await.transpose().map_err(|e| reason(&e))? {
            // Trailers after a chunked body are skipped.
            let Ok(chunk) = frame.into_data() else { continue };
            if whole.len() + chunk.len() > MAX_BODY {
                return Err(too_large());
            }
            held.merge(reserve(&bytes, chunk.len())?);
            whole.extend_from_slice(&chunk);
        }
        pool.put(place, conn, keep).await;
        return Ok(Response {
            status: head.status.as_u16(),
            url: request.url.into(),
            headers: headers_of(&head.headers),
            cookies: cookies_of(&head.headers),
            body: whole,
            _bytes: held,
        });
    }
}

/// Sends a request until the head of its response is there, and with it the connection.
///
/// A kept connection may end just then. The request is sent once more, on a fresh connection, if it was never sent, if
/// it may be sent twice (RFC 9110, section 9.2.2), or if it is certain that the server cannot have read it. Else there
/// is no telling whether the server has done what it asks for.
async fn send(pool: &Arc<Pool>, place: &Place, request: &Request) -> Result<(hyper::Response<Incoming>, Conn), String> {
    let twice = may_be_sent_twice(request);
    if let Some(mut conn) = pool.take(place, request.idle, !twice).await {
        let mark = conn.watch.mark();
        let failure = match conn.sender.try_send_request(message(request)?).await {
            Ok(head) => {
                conn.served = conn.served.saturating_add(1);
                return Ok((head, conn));
            }
            Err(failure) => failure,
        };
        let never_sent = failure.message().is_some();
        let e = failure.into_error();
        // A response that makes no sense was one.
        let ended = !e.is_parse();
        let untouched = || mark.is_some_and(|mark| conn.watch.is_untouched(mark));
        if !(never_sent || ended && (twice || untouched())) {
            return Err(reason(&e));
        }
    }
    let mut conn = pool.open(place).await?;
    let head = conn.sender.send_request(message(request)?).await.map_err(|e| reason(&e))?;
    conn.served = 1;
    Ok((head, conn))
}

fn may_be_sent_twice(request: &Request) -> bool {
    let idempotent = [Method::GET, Method::HEAD, Method::PUT, Method::DELETE, Method::OPTIONS, Method::TRACE];
    idempotent.contains(&request.method) || request.headers.contains_key(IDEMPOTENCY_KEY)
}

/// The request as it is sent to the server itself.
fn message(request: &Request) -> Result<hyper::Request<Full<Bytes>>, String> {
    let target = &request.url[Position::BeforePath..Position::AfterQuery];
    let mut message = hyper::Request::new(Full::new(request.body.clone()));
    *message.method_mut() = request.method.clone();
    *message.uri_mut() = target.parse().map_err(|e| format!("no URL: {e}"))?;
    let headers = message.headers_mut();
    headers.clone_from(&request.headers);
    if !headers.contains_key(HOST) {
        let host = &request.url[Position::BeforeHost..Position::AfterPort];
        headers.insert(HOST, HeaderValue::try_from(host).map_err(|_| "no host of a URL")?);
    }
    // What gives a body a meaning says also that there is none (RFC 9110, section 8.6).
    if request.body.is_empty() && [Method::POST, Method::PUT, Method::PATCH].contains(&request.method) {
        headers.insert(CONTENT_LENGTH, HeaderValue::from_static("0"));
    }
    Ok(message)
}

/// How long the server says that it keeps the connection idle: `Keep-Alive: timeout=5`. One second is subtracted, so
/// that the connection is not used at the last moment.
fn kept_by_server(headers: &HeaderMap) -> Duration {
    let values = headers.get_all(KEEP_ALIVE).iter().filter_map(|value| value.to_str().ok());
    let words = values.flat_map(|value| value.split(',')).filter_map(|word| word.split_once('='));
    let timeout = words.filter(|(name, _)| name.trim().eq_ignore_ascii_case("timeout"));
    let seconds = timeout.filter_map(|(_, value)| value.trim().parse::<u64>().ok()).next();
    seconds.map_or(Duration::MAX, |seconds| Duration::from_secs(seconds.saturating_sub(1)))
}

/// Where a response sends its client, if it does (RFC 9110, section 15.4).
fn redirect(status: StatusCode, headers: &HeaderMap, from: &Url) -> Option<Url> {
    if !matches!(status.as_u16(), 301 | 302 | 303 | 307 | 308) {
        return None;
    }
    let location = std::str::from_utf8(headers.get(LOCATION)?.as_bytes()).ok()?;
    let mut to = from.join(location).ok().filter(|to| matches!(to.scheme(), "http" | "https"))?;
    // Neither fails for a URL that has a host.
    let _ = to.set_username("").and_then(|()| to.set_password(None));
    to.has_host().then_some(to)
}

/// Makes a request the one that asks the next server.
fn follow(request: &mut Request, status: StatusCode, to: Url) {
    let as_get = match status {
        StatusCode::SEE_OTHER => request.method != Method::HEAD,
        StatusCode::MOVED_PERMANENTLY | StatusCode::FOUND => request.method == Method::POST,
        _ => false,
    };
    if as_get {
        request.method = Method::GET;
    }
    if as_get || status == StatusCode::SEE_OTHER {
        request.body = Bytes::new();
        [CONTENT_TYPE, CONTENT_ENCODING].iter().for_each(|name| drop(request.headers.remove(name)));
    }
    // Another server must not get secrets, nor the `Host` of the first.
    if request.url.origin() != to.origin() {
        [AUTHORIZATION, COOKIE, PROXY_AUTHORIZATION, HOST].iter().for_each(|name| drop(request.headers.remove(name)));
    }
    request.url = to;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_servers_word_on_idle_connections_is_taken() {
        for (value, seconds) in [
            ("timeout=5", Some(4)),
            ("max=100, Timeout = 30", Some(29)),
            ("timeout=0", Some(0)),
            ("timeout=1", Some(0)),
            ("timeout=soon", None),
            ("5", None),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(KEEP_ALIVE, HeaderValue::from_static(value));
            assert_eq!(kept_by_server(&headers), seconds.map_or(Duration::MAX, Duration::from_secs), "{value}");
        }
    }
}
