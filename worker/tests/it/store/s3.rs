//! A private S3 server, its objects files below a directory.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ffpool_runtime::tls::{Authority, Wanted};
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
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};

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
    /// Of a server with TLS, the authority's file.
    authority: Option<PathBuf>,
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

/// Of a server for 127.0.0.1; its authority's certificate is `ca.pem` in the folder.
fn acceptor(folder: &Path) -> TlsAcceptor {
    let (authority, _) = Authority::open_or_create(folder, "the store's").unwrap();
    let issued = authority
        .issue(&Wanted {
            common_name: "s3".to_owned(),
            names: vec!["127.0.0.1".to_owned()],
            is_server: true,
            is_client: false,
            life: Duration::from_secs(3600),
        })
        .unwrap();
    let chain = CertificateDer::pem_slice_iter(issued.certificate.as_bytes()).map(Result::unwrap).collect();
    let key = PrivateKeyDer::from_pem_slice(issued.key.as_bytes()).unwrap();
    let config = ServerConfig::builder().with_no_client_auth().with_single_cert(chain, key).unwrap();
    TlsAcceptor::from(Arc::new(config))
}

impl Drop for S3 {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl S3 {
    /// A server with the bucket `media`.
    pub async fn start() -> S3 {
        S3::launch(false).await
    }

    /// The same with TLS, its certificate from an authority that no system trusts.
    pub async fn start_with_tls() -> S3 {
        S3::launch(true).await
    }

    async fn launch(has_tls: bool) -> S3 {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let root = tempfile::tempdir().unwrap();
        let tls = has_tls.then(|| acceptor(root.path()));
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
                let (service, planned, tls) = (service.clone(), planned.clone(), tls.clone());
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
                    // A client that goes away, or trusts nobody here, ends its connection, and nothing else.
                    let builder = Builder::new(TokioExecutor::new());
                    match tls {
                        None => drop(builder.serve_connection(TokioIo::new(stream), service).await),
                        Some(tls) => {
                            if let Ok(stream) = tls.accept(stream).await {
                                drop(builder.serve_connection(TokioIo::new(stream), service).await);
                            }
                        }
                    }
                });
            }
        });
        let authority = has_tls.then(|| root.path().join("ca.pem"));
        S3 { root, mishap, address, authority, task }
    }

    /// The text of a profile for what `serves` names, with these lines besides.
    pub fn profile(&self, name: &str, serves: &str, more: &str) -> String {
        self.profile_with(name, serves, SECRET, more)
    }

    pub fn profile_with(&self, name: &str, serves: &str, secret: &str, more: &str) -> String {
        let (endpoint, trust) = match &self.authority {
            None => (format!("http://{}", self.address), "allow_http = true".to_owned()),
            Some(file) => (format!("https://{}", self.address), format!("ca_file = {file:?}")),
        };
        format!(
            "[{name}]\nserves = \"{serves}\"\nendpoint = \"{endpoint}\"\n{trust}\nregion = \"us-east-1\"\n\
             access_key_id = \"{KEY}\"\nsecret_access_key = \"{secret}\"\n{more}\n"
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
