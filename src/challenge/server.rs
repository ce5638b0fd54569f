//! The platform's HTTP interface: the container is started once, asked whether it is ready, and then asked for cases.
//!
//! | request | answer |
//! |---|---|
//! | `GET /health` | 200 once cases can be asked for, 503 before |
//! | `POST /invoke` | 201 when the outputs of the case are complete; 422 if its input cannot be used, 500 if something else went wrong, 503 if there is no turn now, with `Retry-After` |
//!
//! Every other answer than 200 and 201 has a line of text that says why. Cases run on the caller's thread, one at a time.

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use std::io;
use std::net::TcpListener;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, oneshot};

/// Seconds after which a client that was told to wait is to ask again.
const RETRY_AFTER: &str = "1";

/// What became of a case.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// The outputs are complete.
    Complete,
    /// The input cannot be used, and why.
    Refused(String),
    /// Something else went wrong.
    Failed(String),
    /// The program was told to end.
    Interrupted,
}

/// A case that is asked for. Dropping it unanswered answers that it failed.
#[derive(Debug)]
pub struct Request {
    // Given back before the answer goes out, also where the request is dropped: fields are dropped in this order.
    turn: OwnedSemaphorePermit,
    reply: oneshot::Sender<Answer>,
}

impl Request {
    /// Answers; the next case may then be asked for.
    pub fn answer(self, answer: Answer) {
        drop(self.turn);
        let _client_gone = self.reply.send(answer);
    }
}

/// The server's side that answers requests.
#[derive(Debug, Clone)]
pub struct Server {
    desk: Arc<Desk>,
}

/// What the connections share.
#[derive(Debug)]
struct Desk {
    ready: AtomicBool,
    turn: Arc<Semaphore>,
    /// `None` when no request will come any more.
    requests: Mutex<Option<mpsc::Sender<Request>>>,
    stop: Notify,
}

impl Server {
    /// A server that is not ready yet, and where the cases that it is asked for come out.
    pub fn new() -> (Self, mpsc::Receiver<Request>) {
        let (requests, cases) = mpsc::channel();
        let turn = Arc::new(Semaphore::new(1));
        let requests = Mutex::new(Some(requests));
        let desk = Desk { ready: AtomicBool::new(false), turn, requests, stop: Notify::new() };
        (Self { desk: Arc::new(desk) }, cases)
    }

    /// From now on cases may be asked for.
    pub fn ready(&self) {
        self.desk.ready.store(true, Ordering::Release);
    }

    /// Has [`Server::serve`] return when the answers that are under way have been given.
    pub fn stop(&self) {
        self.desk.stop.notify_one();
    }

    /// Answers requests until [`Server::stop`]; the receiver of cases ends when this returns.
    ///
    /// # Errors
    /// If the listener or the threads' runtime fails.
    pub fn serve(&self, listener: TcpListener) -> io::Result<()> {
        let desk = &self.desk;
        let routes = axum::Router::new()
            .route("/health", get(health))
            .route("/invoke", post(invoke))
            .method_not_allowed_fallback(wrong_method)
            .fallback(unknown)
            .with_state(Arc::clone(desk));
        let stop = Arc::clone(desk);
        let _closing = Closing(desk);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async {
            listener.set_nonblocking(true)?;
            let listener = tokio::net::TcpListener::from_std(listener)?;
            let stopped = async move { stop.stop.notified().await };
            axum::serve(listener, routes).with_graceful_shutdown(stopped).await
        })
    }
}

/// Ends the receiver of cases when it is dropped, however the serving ends.
struct Closing<'d>(&'d Desk);

impl Drop for Closing<'_> {
    fn drop(&mut self) {
        self.0.requests().take();
    }
}

impl Desk {
    fn requests(&self) -> MutexGuard<'_, Option<mpsc::Sender<Request>>> {
        self.requests.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn health(State(desk): State<Arc<Desk>>) -> Response {
    if desk.ready.load(Ordering::Acquire) {
        line(StatusCode::OK, "ready")
    } else {
        wait("not ready: loading the weights")
    }
}

async fn invoke(State(desk): State<Arc<Desk>>) -> Response {
    if !desk.ready.load(Ordering::Acquire) {
        return wait("not ready: loading the weights");
    }
    let Ok(turn) = Arc::clone(&desk.turn).try_acquire_owned() else {
        return wait("busy with another case: ask again when it is done");
    };
    let (reply, answer) = oneshot::channel();
    let taken = desk.requests().as_ref().is_some_and(|to| to.send(Request { turn, reply }).is_ok());
    let answer = if taken { answer.await.ok() } else { Some(Answer::Interrupted) };
    match answer {
        Some(Answer::Complete) => line(StatusCode::CREATED, "outputs written"),
        Some(Answer::Refused(reason)) => line(StatusCode::UNPROCESSABLE_ENTITY, &reason),
        Some(Answer::Failed(reason)) => line(StatusCode::INTERNAL_SERVER_ERROR, &reason),
        Some(Answer::Interrupted) => line(StatusCode::SERVICE_UNAVAILABLE, "interrupted: the program ends"),
        None => line(StatusCode::INTERNAL_SERVER_ERROR, "the case was given up"),
    }
}

async fn wrong_method() -> Response {
    line(StatusCode::METHOD_NOT_ALLOWED, "expected GET /health or POST /invoke")
}

async fn unknown() -> Response {
    line(StatusCode::NOT_FOUND, "expected GET /health or POST /invoke")
}

fn line(status: StatusCode, text: &str) -> Response {
    (status, format!("{text}\n")).into_response()
}

fn wait(text: &str) -> Response {
    let mut response = line(StatusCode::SERVICE_UNAVAILABLE, text);
    response.headers_mut().insert(header::RETRY_AFTER, header::HeaderValue::from_static(RETRY_AFTER));
    response
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::net::{SocketAddr, TcpStream};
    use std::thread;

    /// Status and whole text of an answer.
    fn ask(address: SocketAddr, method: &str, path: &str) -> (u16, String) {
        let mut stream = TcpStream::connect(address).unwrap();
        write!(
            stream,
            "{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
        )
        .unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        (text[9..12].parse().unwrap(), text)
    }

    /// Runs a server, whose cases go to `cases` when they are asked for, while `client` asks.
    fn with_server(
        cases: impl FnOnce(mpsc::Receiver<Request>) + Send,
        client: impl FnOnce(&Server, SocketAddr),
    ) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (server, receiver) = Server::new();
        thread::scope(|scope| {
            let serving = server.clone();
            scope.spawn(move || serving.serve(listener).unwrap());
            scope.spawn(move || cases(receiver));
            client(&server, address);
            server.stop();
        });
    }

    #[test]
    fn nothing_is_taken_before_the_server_is_ready() {
        with_server(
            |cases| assert!(cases.recv().is_err()),
            |server, address| {
                assert_eq!(ask(address, "GET", "/health").0, 503);
                let (status, text) = ask(address, "POST", "/invoke");
                assert_eq!(status, 503);
                assert!(text.contains("retry-after: 1\r\n"), "{text}");
                server.ready();
                assert_eq!(ask(address, "GET", "/health").0, 200);
            },
        );
    }

    #[test]
    fn answers_become_status_codes_and_a_failure_does_not_stop_the_next() {
        let answers = [
            (Answer::Refused("scan.mha: no".to_owned()), 422, "\r\n\r\nscan.mha: no\n"),
            (Answer::Failed("disk full".to_owned()), 500, "\r\n\r\ndisk full\n"),
            (Answer::Complete, 201, "outputs written\n"),
            (Answer::Interrupted, 503, "interrupted"),
        ];
        let to_give = answers.clone();
        with_server(
            |cases| {
                drop(cases.recv().unwrap());
                for (answer, ..) in to_give {
                    cases.recv().unwrap().answer(answer);
                }
            },
            |server, address| {
                server.ready();
                assert_eq!(ask(address, "POST", "/invoke").0, 500, "a case that was given up");
                for (_, status, text) in answers {
                    let (got, all) = ask(address, "POST", "/invoke");
                    assert_eq!(got, status);
                    assert!(all.contains(text), "{text:?} is not in {all:?}");
                }
            },
        );
    }

    #[test]
    fn a_second_case_is_told_to_wait_while_health_answers() {
        let (begun, wait_for_begun) = mpsc::channel();
        let (finish, wait_for_finish) = mpsc::channel::<()>();
        with_server(
            move |cases| {
                let first = cases.recv().unwrap();
                begun.send(()).unwrap();
                wait_for_finish.recv().unwrap();
                first.answer(Answer::Complete);
            },
            |server, address| {
                server.ready();
                let first = thread::spawn(move || ask(address, "POST", "/invoke").0);
                wait_for_begun.recv().unwrap();
                let (status, text) = ask(address, "POST", "/invoke");
                assert_eq!(status, 503);
                assert!(text.contains("busy with another case") && text.contains("retry-after"), "{text}");
                assert_eq!(ask(address, "GET", "/health").0, 200);
                finish.send(()).unwrap();
                assert_eq!(first.join().unwrap(), 201);
            },
        );
    }

    #[test]
    fn other_requests_are_told_what_is_expected() {
        with_server(
            |cases| assert!(cases.recv().is_err()),
            |_, address| {
                for (method, path, status) in
                    [("GET", "/", 404), ("GET", "/invoke", 405), ("POST", "/health", 405)]
                {
                    let (got, text) = ask(address, method, path);
                    assert_eq!(got, status, "{method} {path}");
                    assert!(text.ends_with("expected GET /health or POST /invoke\n"), "{text}");
                }
            },
        );
    }
}
