//! A private S3 server, its objects files below a directory.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Method, Request};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto::Builder;
use s3s::auth::SimpleAuth;
use s3s::service::S3ServiceBuilder;
use s3s_fs::FileSystem;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

const KEY: &str = "the-key";
const SECRET: &str = "the-secret-of-the-store";

/// What happens to the next request that makes an object visible.
pub enum Mishap {
    /// This comes first.
    Before(Box<dyn FnOnce() + Send>),
    /// It is carried out, and its answer is lost.
    AnswerLost,
}

pub struct S3 {
    pub root: tempfile::TempDir,
    /// Taken by the next write.
    pub mishap: Arc<Mutex<Option<Mishap>>>,
    address: SocketAddr,
    task: JoinHandle<()>,
}

/// Whether a request makes an object visible: a write in one piece, or the end of one in parts.
fn is_write(request: &Request<Incoming>) -> bool {
    let query = request.uri().query().unwrap_or_default();
    match *request.method() {
        Method::PUT => !query.contains("uploadId"),
        Method::POST => query.contains("uploadId"),
        _ => false,
    }
}

impl Drop for S3 {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl S3 {
    /// A server with the bucket `media`.
    pub async fn start() -> S3 {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir(root.path().join("media")).unwrap();
        let mut builder = S3ServiceBuilder::new(FileSystem::new(root.path()).unwrap());
        builder.set_auth(SimpleAuth::from_single(KEY, SECRET));
        let service = builder.build();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mishap = Arc::new(Mutex::new(None));
        let planned = mishap.clone();
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (service, planned) = (service.clone(), planned.clone());
                let service = service_fn(move |request: Request<Incoming>| {
                    let mishap = planned.lock().unwrap().take_if(|_| is_write(&request));
                    let service = service.clone();
                    async move {
                        let loses_answer = match mishap {
                            Some(Mishap::Before(act)) => {
                                act();
                                false
                            }
                            Some(Mishap::AnswerLost) => true,
                            None => false,
                        };
                        match service.call(request.map(s3s::Body::from)).await {
                            Ok(_) if loses_answer => Err("the answer is lost".to_owned()),
                            answer => answer.map_err(|error| format!("{error:?}")),
                        }
                    }
                });
                tokio::spawn(async move {
                    // A client that goes away ends its connection, and nothing else.
                    let _ = Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), service).await;
                });
            }
        });
        S3 { root, mishap, address, task }
    }

    /// The text of a profile for what `serves` names, with these lines besides.
    pub fn profile(&self, name: &str, serves: &str, more: &str) -> String {
        self.profile_with(name, serves, SECRET, more)
    }

    pub fn profile_with(&self, name: &str, serves: &str, secret: &str, more: &str) -> String {
        format!(
            "[{name}]\nserves = \"{serves}\"\nendpoint = \"http://{}\"\nallow_http = true\nregion = \"us-east-1\"\n\
             access_key_id = \"{KEY}\"\nsecret_access_key = \"{secret}\"\n{more}\n",
            self.address
        )
    }

    /// An object's file.
    pub fn path(&self, key: &str) -> PathBuf {
        self.root.path().join("media").join(key)
    }

    /// The keys in the bucket's top folder.
    pub fn keys(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.root.path().join("media")).unwrap().flatten();
        let mut keys: Vec<String> = entries.map(|entry| entry.file_name().into_string().unwrap()).collect();
        keys.sort();
        keys
    }

    /// What the server keeps of uploads that have not ended.
    pub fn unfinished(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.root.path()).unwrap().flatten();
        entries.map(|entry| entry.file_name().into_string().unwrap()).filter(|name| name.contains("upload")).collect()
    }
}
