//! `/metrics` and `/healthz` over HTTP.
//!
//! Started by `daemon::run`. Read-only and on loopback unless the operator says otherwise. What must stay true: slow,
//! idle, many or babbling clients cost a bounded number of connections and nothing of the event path.

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{ALLOW, CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

/// Connections at one time.
const MAX_CONNECTIONS: usize = 32;
/// How long a request's head may take, and an idle connection may stay.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// How long one connection may live: a scraper connects again.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(300);

/// What the server shows.
pub trait Pages: Send + Sync + 'static {
    /// The text of `/metrics`. May block.
    ///
    /// # Errors
    /// What the scraper is told.
    fn metrics(&self) -> Result<Vec<u8>, String>;

    /// Whether the daemon does its work; else what is wrong.
    ///
    /// # Errors
    /// The sentence for `/healthz`.
    fn health(&self) -> Result<String, String>;
}

/// Binds the address. Anything but loopback must be allowed.
///
/// # Errors
/// `PermissionDenied` for another address without leave, or what `bind` returns.
pub async fn bind(address: SocketAddr, anywhere: bool) -> io::Result<TcpListener> {
    if !anywhere && !address.ip().to_canonical().is_loopback() {
        let message = format!(
            "metrics on {address} could be read by everybody who reaches it: use a loopback address, or allow it with --metrics-anywhere"
        );
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, message));
    }
    TcpListener::bind(address).await
}

/// Serves until `shutdown`.
pub async fn serve(listener: TcpListener, pages: Arc<dyn Pages>, shutdown: impl Future<Output = ()>) {
    let connections = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    tokio::pin!(shutdown);
    loop {
        // Beyond the limit clients wait in the listener's queue.
        let permit = tokio::select! {
            () = &mut shutdown => return,
            permit = Arc::clone(&connections).acquire_owned() => permit,
        };
        let accepted = tokio::select! {
            () = &mut shutdown => return,
            accepted = listener.accept() => accepted,
        };
        let (Ok(permit), Ok((stream, _))) = (permit, accepted) else {
            // Out of descriptors: accepting again at once would spin.
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        let pages = Arc::clone(&pages);
        tokio::spawn(async move {
            let service = service_fn(move |request| answer(request, Arc::clone(&pages)));
            let connection = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEAD_TIMEOUT)
                .max_buf_size(16 << 10)
                .serve_connection(TokioIo::new(stream), service);
            // A client that breaks off or babbles is its own affair.
            let _ = tokio::time::timeout(CONNECTION_TIMEOUT, connection).await;
            drop(permit);
        });
    }
}

async fn answer(
    request: Request<Incoming>,
    pages: Arc<dyn Pages>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let page = match (request.method(), request.uri().path()) {
        (&Method::GET | &Method::HEAD, "/metrics") => {
            // Reading the kernel's maps blocks.
            match tokio::task::spawn_blocking(move || pages.metrics()).await {
                Ok(Ok(body)) => page(StatusCode::OK, "text/plain; version=0.0.4; charset=utf-8", body),
                Ok(Err(error)) => text(StatusCode::INTERNAL_SERVER_ERROR, error),
                Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
            }
        }
        (&Method::GET | &Method::HEAD, "/healthz") => match pages.health() {
            Ok(body) => text(StatusCode::OK, body),
            Err(body) => text(StatusCode::SERVICE_UNAVAILABLE, body),
        },
        (_, "/metrics" | "/healthz") => {
            let mut response = text(StatusCode::METHOD_NOT_ALLOWED, "GET only".to_owned());
            response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
            response
        }
        _ => text(StatusCode::NOT_FOUND, "there are /metrics and /healthz".to_owned()),
    };
    Ok(page)
}

fn text(status: StatusCode, body: String) -> Response<Full<Bytes>> {
    page(status, "text/plain; charset=utf-8", (body + "\n").into())
}

fn page(status: StatusCode, kind: &'static str, body: Vec<u8>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};

    struct Fake;

    impl Pages for Fake {
        fn metrics(&self) -> Result<Vec<u8>, String> {
            Ok(b"up 1\n".to_vec())
        }
        fn health(&self) -> Result<String, String> {
            Err("the event thread ended".to_owned())
        }
    }

    fn ask(address: SocketAddr, head: &str) -> String {
        let mut stream = std::net::TcpStream::connect(address).unwrap();
        stream.write_all(head.as_bytes()).unwrap();
        let mut reply = String::new();
        let _ = stream.read_to_string(&mut reply);
        reply
    }

    #[test]
    fn pages_are_served_and_everything_else_is_refused() {
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        let (bound, address) = std::sync::mpsc::channel();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let listener = bind("127.0.0.1:0".parse().unwrap(), false).await.unwrap();
                bound.send(listener.local_addr().unwrap()).unwrap();
                serve(listener, Arc::new(Fake), async { stopped.await.unwrap() }).await;
            });
        });
        let address = address.recv().unwrap();
        let get = |path: &str| {
            ask(address, &format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"))
        };
        let metrics = get("/metrics");
        assert!(metrics.starts_with("HTTP/1.1 200") && metrics.ends_with("up 1\n"), "{metrics}");
        assert!(metrics.contains("text/plain; version=0.0.4"));
        let health = get("/healthz");
        assert!(
            health.starts_with("HTTP/1.1 503") && health.ends_with("the event thread ended\n"),
            "{health}"
        );
        assert!(get("/").starts_with("HTTP/1.1 404"));
        let post = ask(
            address,
            "POST /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 0\r\n\r\n",
        );
        assert!(post.starts_with("HTTP/1.1 405"), "{post}");
        assert!(ask(address, "\x16\x03\x01 nonsense\r\n\r\n").starts_with("HTTP/1.1 400"));
        let long = format!("GET /metrics HTTP/1.1\r\nX: {}\r\n\r\n", "x".repeat(64 << 10));
        assert!(!ask(address, &long).starts_with("HTTP/1.1 200"));
        stop.send(()).unwrap();
        thread.join().unwrap();
    }

    #[tokio::test]
    async fn other_addresses_need_leave() {
        let everywhere: SocketAddr = "0.0.0.0:0".parse().unwrap();
        let error = bind(everywhere, false).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::PermissionDenied);
        assert!(error.to_string().contains("--metrics-anywhere"));
        assert!(bind(everywhere, true).await.is_ok());
        assert!(bind("[::ffff:127.0.0.1]:0".parse().unwrap(), false).await.is_ok());
    }
}
