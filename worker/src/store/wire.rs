//! Requests that a store's library does not know, made on their way out of those that it does: it names the place, signs,
//! repeats and tells failures apart, and what leaves is another operation at the same address.
//!
//! * Azure: a Put Blob whose body is a list of blocks leaves as Put Block List, which keeps to the same conditions
//!   (<https://learn.microsoft.com/rest/api/storageservices/put-block-list>). The library ends an upload without any.
//! * Google: an empty Put Object leaves as a copy, which keeps to `x-goog-if-generation-match`
//!   (<https://cloud.google.com/storage/docs/xml-api/put-object-copy>). The library knows no condition for a copy but that nothing
//!   is there, and no upload in parts has one
//!   (<https://cloud.google.com/storage/docs/multipart-uploads>: "Preconditions are not supported").
//!
//! Invariant: a request that bears neither mark leaves as it came.

use std::pin::Pin;

use ffpool_schema::location::ObjectAddress;
use object_store::azure::{AzureAuthorizer, AzureCredentialProvider};
use object_store::client::{
    HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpRequestBody, HttpResponse, HttpService,
    ReqwestConnector,
};
use object_store::{ClientOptions, HeaderValue};
use reqwest::StatusCode;
use reqwest::header::{AUTHORIZATION, ETAG};

/// What Azure's library says of a blob that is put in one piece.
const BLOB_TYPE: &str = "x-ms-blob-type";
const COPY_SOURCE: &str = "x-goog-copy-source";
/// Whether a copy has its source's metadata or the request's.
const METADATA: &str = "x-goog-metadata-directive";

/// The mark of a Put Blob that is to leave as Put Block List. An account's key signs the operation too, so it signs again.
#[derive(Clone)]
pub(super) struct AsBlockList(pub(super) AzureCredentialProvider);

/// The mark of a Put Object that is to leave as a copy, with the copy's source.
#[derive(Clone)]
pub(super) struct AsCopyOf(HeaderValue);

impl AsCopyOf {
    pub(super) fn new(source: &ObjectAddress) -> AsCopyOf {
        let text = format!("{}/{}", encoded(&source.bucket), encoded(&source.key));
        AsCopyOf(HeaderValue::from_str(&text).expect("letters, digits, percent signs and a slash make a header"))
    }
}

/// Percent-encoded, but for letters and digits.
fn encoded(text: &str) -> String {
    let one = |byte: u8| match byte {
        b'0'..=b'9' | b'A'..=b'Z' | b'a'..=b'z' => char::from(byte).to_string(),
        byte => format!("%{byte:02X}"),
    };
    text.bytes().map(one).collect()
}

/// Makes the connections of a store's client.
#[derive(Debug)]
pub(super) struct Wired;

impl HttpConnector for Wired {
    fn connect(&self, options: &ClientOptions) -> object_store::Result<HttpClient> {
        Ok(HttpClient::new(Wire { on: ReqwestConnector::default().connect(options)? }))
    }
}

#[derive(Debug)]
struct Wire {
    on: HttpClient,
}

impl HttpService for Wire {
    fn call<'wire, 'answer>(
        &'wire self,
        request: HttpRequest,
    ) -> Pin<Box<dyn Future<Output = Result<HttpResponse, HttpError>> + Send + 'answer>>
    where
        'wire: 'answer,
        Self: 'answer,
    {
        Box::pin(self.hand_on(request))
    }
}

impl Wire {
    async fn hand_on(&self, mut request: HttpRequest) -> Result<HttpResponse, HttpError> {
        if let Some(AsBlockList(credentials)) = request.extensions_mut().remove() {
            let request = block_list(request, &credentials).await?;
            return self.on.execute(request).await;
        }
        if let Some(AsCopyOf(source)) = request.extensions_mut().remove() {
            request.headers_mut().insert(COPY_SOURCE, source);
            // So the mark that an attempt left on a content goes where the content goes.
            request.headers_mut().insert(METADATA, HeaderValue::from_static("COPY"));
            *request.body_mut() = HttpRequestBody::empty();
            return copied(self.on.execute(request).await?).await;
        }
        self.on.execute(request).await
    }
}

async fn block_list(mut request: HttpRequest, credentials: &AzureCredentialProvider) -> Result<HttpRequest, HttpError> {
    let unmade = |error: Box<dyn std::error::Error + Send + Sync>| HttpError::new_boxed(HttpErrorKind::Unknown, error);
    let address = request.uri().to_string();
    // A shared access signature stands there already, and is good for the whole blob.
    let sign = if address.contains('?') { '&' } else { '?' };
    *request.uri_mut() = format!("{address}{sign}comp=blocklist").parse().map_err(|error| unmade(Box::new(error)))?;
    request.headers_mut().remove(BLOB_TYPE);
    let signed = request.headers().get(AUTHORIZATION).and_then(|value| value.to_str().ok());
    let account = signed.and_then(|value| value.strip_prefix("SharedKey ")?.split_once(':')).map(|it| it.0.to_owned());
    if let Some(account) = account {
        let credential = credentials.get_credential().await.map_err(|error| unmade(Box::new(error)))?;
        request.headers_mut().remove(AUTHORIZATION);
        let signed = AzureAuthorizer::new(&credential, &account).try_authorize(&mut request);
        signed.map_err(|error| unmade(Box::new(error)))?;
    }
    Ok(request)
}

/// What the library takes for the answer to a Put Object: the copy's version is in the body, and it looks in the head. A 200
/// without one has copied nothing, and is worth another try as any answer from within the store.
async fn copied(answer: HttpResponse) -> Result<HttpResponse, HttpError> {
    if !answer.status().is_success() {
        return Ok(answer);
    }
    let (mut head, body) = answer.into_parts();
    let body = body.bytes().await?;
    let text = String::from_utf8_lossy(&body);
    if !text.contains("<CopyObjectResult") {
        head.status = StatusCode::BAD_GATEWAY;
    } else if !head.headers.contains_key(ETAG) {
        let tag = text.split_once("<ETag>").and_then(|(_, rest)| rest.split_once("</ETag>")).map_or("", |it| it.0);
        let tag = HeaderValue::from_str(&tag.replace("&quot;", "\"")).unwrap_or(HeaderValue::from_static("\"\""));
        head.headers.insert(ETAG, tag);
    }
    Ok(HttpResponse::from_parts(head, body.into()))
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use bytes::Bytes;
    use ffpool_schema::location::Scheme;
    use object_store::azure::MicrosoftAzureBuilder;
    use object_store::gcp::{GcpCredential, GoogleCloudStorageBuilder};
    use object_store::path::Path as Key;
    use object_store::{
        Extensions, ObjectStore, PutMode, PutOptions, PutPayload, StaticCredentialProvider, UpdateVersion,
    };

    use super::*;

    /// Keeps what leaves, and answers all of it alike.
    #[derive(Debug, Clone)]
    struct Outside {
        seen: Arc<Mutex<Vec<HttpRequest>>>,
        answer: (StatusCode, &'static str),
    }

    impl Outside {
        fn answers(status: StatusCode, body: &'static str) -> Outside {
            Outside { seen: Arc::default(), answer: (status, body) }
        }

        /// The last request, as method and address, and its headers.
        fn last(&self) -> (String, reqwest::header::HeaderMap) {
            let seen = self.seen.lock().unwrap();
            let last = seen.last().unwrap();
            (format!("{} {}", last.method(), last.uri()), last.headers().clone())
        }
    }

    impl HttpConnector for Outside {
        fn connect(&self, _: &ClientOptions) -> object_store::Result<HttpClient> {
            Ok(HttpClient::new(Wire { on: HttpClient::new(self.clone()) }))
        }
    }

    impl HttpService for Outside {
        fn call<'outside, 'answer>(
            &'outside self,
            request: HttpRequest,
        ) -> Pin<Box<dyn Future<Output = Result<HttpResponse, HttpError>> + Send + 'answer>>
        where
            'outside: 'answer,
            Self: 'answer,
        {
            self.seen.lock().unwrap().push(request);
            let (status, body) = self.answer;
            let mut answer = HttpResponse::new(Bytes::from_static(body.as_bytes()).into());
            *answer.status_mut() = status;
            if body.is_empty() {
                answer.headers_mut().insert(ETAG, HeaderValue::from_static("\"1\""));
            }
            Box::pin(std::future::ready(Ok(answer)))
        }
    }

    fn marked<T: Clone + Send + Sync + 'static>(mark: T, mode: PutMode) -> PutOptions {
        let mut extensions = Extensions::new();
        extensions.insert(mark);
        PutOptions { mode, extensions, ..PutOptions::default() }
    }

    fn version(of: &str) -> PutMode {
        PutMode::Update(UpdateVersion { e_tag: Some(of.to_owned()), version: Some(of.to_owned()) })
    }

    #[tokio::test]
    async fn a_list_of_blocks_leaves_under_its_condition_and_is_signed_as_what_it_is() {
        let outside = Outside::answers(StatusCode::CREATED, "");
        let key = Key::parse("a b/50%.mp4").unwrap();
        let builder = || MicrosoftAzureBuilder::new().with_account("ours").with_container_name("media");
        let store = builder().with_access_key("c2VjcmV0").with_http_connector(outside.clone()).build().unwrap();
        store.put_opts(&key, PutPayload::from("<x/>"), PutMode::Create.into()).await.unwrap();
        let (plain, as_blob) = outside.last();
        let mark = || AsBlockList(store.credentials().clone());
        store.put_opts(&key, PutPayload::from("<x/>"), marked(mark(), PutMode::Create)).await.unwrap();
        let (address, as_list) = outside.last();
        assert_eq!(address, format!("{plain}?comp=blocklist"));
        assert!(address.contains("/media/a%20b/50%25.mp4?"), "{address}");
        assert_eq!(as_list["if-none-match"], "*");
        assert!(as_blob.contains_key(BLOB_TYPE) && !as_list.contains_key(BLOB_TYPE));
        let signatures: Vec<_> = as_list.get_all(AUTHORIZATION).iter().collect();
        assert!(signatures.len() == 1 && signatures[0].to_str().unwrap().starts_with("SharedKey ours:"));
        assert_ne!(signatures[0], &as_blob[AUTHORIZATION]);
        store.put_opts(&key, PutPayload::from("<x/>"), marked(mark(), version("\"7\""))).await.unwrap();
        assert_eq!(outside.last().1["if-match"], "\"7\"");

        // What is no account's key has signed nothing of the operation.
        let sas = [("sig".to_owned(), "hunter2".to_owned())];
        let store = builder().with_sas_authorization(sas).with_http_connector(outside.clone()).build().unwrap();
        let mark = AsBlockList(store.credentials().clone());
        store.put_opts(&key, PutPayload::from("<x/>"), marked(mark, PutMode::Create)).await.unwrap();
        let (address, headers) = outside.last();
        assert!(address.ends_with("?sig=hunter2&comp=blocklist") && !headers.contains_key(AUTHORIZATION), "{address}");
    }

    fn google(outside: &Outside) -> impl ObjectStore {
        let bearer = GcpCredential { bearer: "hunter2".to_owned() };
        let builder = GoogleCloudStorageBuilder::new().with_bucket_name("media");
        let builder = builder.with_credentials(Arc::new(StaticCredentialProvider::new(bearer)));
        let retry = object_store::RetryConfig { max_retries: 0, ..object_store::RetryConfig::default() };
        builder.with_http_connector(outside.clone()).with_retry(retry).build().unwrap()
    }

    #[tokio::test]
    async fn a_copy_leaves_under_its_condition_and_is_believed_only_where_the_store_says_so() {
        let key = Key::parse("a b/50%.mp4").unwrap();
        let source = ObjectAddress { scheme: Scheme::Gs, bucket: "media".to_owned(), key: "a b/50%.part".to_owned() };
        let done = "<?xml version=\"1.0\"?><CopyObjectResult><ETag>&quot;9&quot;</ETag></CopyObjectResult>";
        let outside = Outside::answers(StatusCode::OK, done);
        let put =
            google(&outside).put_opts(&key, PutPayload::new(), marked(AsCopyOf::new(&source), version("7"))).await;
        assert_eq!(put.unwrap().e_tag.as_deref(), Some("\"9\""));
        let (address, headers) = outside.last();
        assert!(address.starts_with("PUT ") && address.ends_with("/media/a%20b%2F50%25%2Emp4"), "{address}");
        assert_eq!(
            (&headers[COPY_SOURCE], &headers[METADATA]),
            (&"media/a%20b%2F50%25%2Epart".parse().unwrap(), &"COPY".parse().unwrap())
        );
        assert_eq!(headers["x-goog-if-generation-match"], "7");
        assert_eq!(outside.seen.lock().unwrap()[0].body().content_length(), 0);

        // Cut off, or a page of somebody in between; what the store refuses stays what it is.
        for body in ["<html>welcome</html>", "<?xml version=\"1.0\"?>   "] {
            let store = google(&Outside::answers(StatusCode::OK, body));
            let put = store.put_opts(&key, PutPayload::new(), marked(AsCopyOf::new(&source), version("7"))).await;
            assert!(put.unwrap_err().to_string().contains("502"), "{body}");
        }
        let outside = Outside::answers(StatusCode::PRECONDITION_FAILED, "<Error/>");
        let put =
            google(&outside).put_opts(&key, PutPayload::new(), marked(AsCopyOf::new(&source), version("7"))).await;
        assert!(matches!(put, Err(object_store::Error::Precondition { .. })), "{put:?}");
    }

    #[tokio::test]
    async fn what_bears_no_mark_leaves_as_it_came() {
        let outside = Outside::answers(StatusCode::OK, "");
        google(&outside).put_opts(&Key::from("a"), PutPayload::from("text"), PutMode::Create.into()).await.unwrap();
        let (_, headers) = outside.last();
        assert!(!headers.contains_key(COPY_SOURCE));
        assert_eq!(outside.seen.lock().unwrap()[0].body().content_length(), 4);
    }
}
