//! A Chromium without a window, driven over the DevTools protocol through a pipe.
//!
//! Invariant: what a page complains about (errors, refused resources, a policy that was violated) is remembered, and the
//! browser ends with its owner, however that ends.

use std::collections::HashMap;
use std::process::Stdio;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

/// Longest wait for anything in the browser; the machine may be busy.
const BOUND: Duration = Duration::from_secs(60);
/// Between two looks at the page.
const PAUSE: Duration = Duration::from_millis(25);

/// Gives the browser its pipe as descriptors 3 (it reads) and 4 (it writes); nothing else of it is heard.
const PIPED: &str = "exec \"$@\" 3<&0 4>&1 0</dev/null 1>/dev/null 2>/dev/null";

type Waiting = Arc<Mutex<HashMap<u64, oneshot::Sender<Value>>>>;

/// One browser with one page. What it is asked for needs a runtime of tokio; where it cannot be done it panics with what the page
/// says, as tests do.
#[derive(Debug)]
pub struct Browser {
    /// Closing its pipe ends it; kept so that it is killed too.
    child: Child,
    pipe: tokio::sync::Mutex<ChildStdin>,
    session: String,
    next: AtomicU64,
    waiting: Waiting,
    complaints: Arc<Mutex<Vec<String>>>,
    reading: JoinHandle<()>,
    /// Its profile.
    _folder: tempfile::TempDir,
}

impl Browser {
    /// Starts one. It takes any certificate: whether the API's is good is another test's affair.
    ///
    /// # Panics
    /// When there is no Chromium, with the package that brings it.
    pub async fn start() -> Browser {
        let folder = tempfile::tempdir().unwrap();
        let mut child = Command::new("sh")
            .args(["-c", PIPED, "sh", "chromium", "--headless=new", "--remote-debugging-pipe", "--no-first-run"])
            .args(["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--disable-extensions", "--mute-audio"])
            .args(["--disable-background-networking", "--disable-component-update", "--disable-sync"])
            .args(["--hide-scrollbars", "--no-default-browser-check", "--ignore-certificate-errors"])
            .arg(format!("--user-data-dir={}", folder.path().display()))
            .arg("about:blank")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let (input, output) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        let (waiting, complaints) = (Waiting::default(), Arc::default());
        let reading = tokio::spawn(read(BufReader::new(output), waiting.clone(), Arc::clone(&complaints)));
        let mut browser = Browser {
            child,
            pipe: tokio::sync::Mutex::new(input),
            session: String::new(),
            next: AtomicU64::new(1),
            waiting,
            complaints,
            reading,
            _folder: folder,
        };
        let targets = browser.call("Target.getTargets", json!({})).await;
        let page = targets["targetInfos"].as_array().unwrap().iter().find(|target| target["type"] == "page").cloned();
        let id = page.expect("a browser has a page")["targetId"].clone();
        let attached = browser.call("Target.attachToTarget", json!({"targetId": id, "flatten": true})).await;
        browser.session = attached["sessionId"].as_str().unwrap().to_owned();
        for domain in ["Page", "Runtime", "Log", "Network"] {
            browser.call(&format!("{domain}.enable"), json!({})).await;
        }
        browser
    }

    /// Calls a method of the protocol and gives its result.
    ///
    /// # Panics
    /// When the browser refuses it or does not answer within a minute.
    pub async fn call(&self, method: &str, params: Value) -> Value {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let mut message = json!({"id": id, "method": method, "params": params});
        if !self.session.is_empty() {
            message["sessionId"] = json!(self.session);
        }
        let (answer, answered) = oneshot::channel();
        self.waiting.lock().unwrap().insert(id, answer);
        let mut bytes = message.to_string().into_bytes();
        bytes.push(0);
        let sent = self.pipe.lock().await.write_all(&bytes).await;
        assert!(
            sent.is_ok(),
            "Chromium has ended, or is not there: `compose/install` installs the Debian package chromium"
        );
        let answer = tokio::time::timeout(BOUND, answered).await;
        let answer = answer.unwrap_or_else(|_| panic!("not within {BOUND:?}: {method}"));
        let answer = answer.expect("Chromium ended, or is not there: the Debian package is named chromium");
        assert!(answer.get("error").is_none(), "{method}: {}", answer["error"]);
        answer["result"].clone()
    }

    /// Opens an address, as somebody who writes it.
    ///
    /// # Panics
    /// When nothing comes from there.
    pub async fn open(&self, url: &str) {
        let opened = self.call("Page.navigate", json!({"url": url})).await;
        assert!(opened.get("errorText").is_none(), "{url}: {opened}");
    }

    /// The value of an expression on the page, waited for where it is a promise.
    ///
    /// # Panics
    /// When it throws.
    pub async fn value(&self, expression: &str) -> Value {
        let params =
            json!({"expression": expression, "awaitPromise": true, "returnByValue": true, "userGesture": true});
        let result = self.call("Runtime.evaluate", params).await;
        assert!(result.get("exceptionDetails").is_none(), "{expression}: {}", result["exceptionDetails"]);
        result["result"]["value"].clone()
    }

    /// Waits until an expression is true on the page; fails with what the page says then.
    ///
    /// # Panics
    /// When it is not within a minute.
    pub async fn until(&self, fact: &str, expression: &str) {
        self.until_within(BOUND, fact, expression).await;
    }

    /// The same, where it may take longer or shall not.
    ///
    /// # Panics
    /// When it is not within `bound`.
    pub async fn until_within(&self, bound: Duration, fact: &str, expression: &str) {
        self.found_within(bound, fact, &format!("Boolean({expression}) || null")).await;
    }

    /// The value of an expression, as soon as it is one and not null; what throws is none.
    async fn found_within(&self, bound: Duration, fact: &str, expression: &str) -> Value {
        let began = Instant::now();
        let guarded = format!("(() => {{ try {{ return {expression}; }} catch {{ return null; }} }})()");
        loop {
            let found = self.value(&guarded).await;
            if !found.is_null() {
                return found;
            }
            if began.elapsed() > bound {
                let shown = self.value("location.href + '\\n' + document.body?.innerText").await;
                panic!("not within {bound:?}: {fact}; the page says: {shown}; it complains: {:?}", self.complaints());
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Waits until a text can be read on the page.
    ///
    /// # Panics
    /// As [`Browser::until`].
    pub async fn until_shown(&self, text: &str) {
        self.until(&format!("`{text}` is shown"), &format!("document.body.innerText.includes({})", json!(text))).await;
    }

    /// Presses the button of these words, once it is there.
    ///
    /// # Panics
    /// As [`Browser::until`].
    pub async fn press(&self, words: &str) {
        let find = format!(
            "[...document.querySelectorAll('button')].findLast(button => button.textContent.trim() === {} && !button.disabled)",
            json!(words)
        );
        self.until(&format!("there is a button `{words}`"), &find).await;
        self.value(&format!("{find}.click()")).await;
    }

    /// Points at what an expression finds and presses the mouse, once that is there, can be used, is covered by nothing and does not
    /// move.
    ///
    /// # Panics
    /// As [`Browser::until`].
    pub async fn click(&self, find: &str) {
        let place = format!(
            "(found => {{ if (!found || found.disabled) return null; \
             found.scrollIntoView({{block: 'center', inline: 'center', behavior: 'instant'}}); \
             const box = found.getBoundingClientRect(); const [x, y] = [box.x + box.width / 2, box.y + box.height / 2]; \
             return found.contains(document.elementFromPoint(x, y)) ? [x, y] : null; }})({find})"
        );
        let fact = format!("there is something to press that stays in its place: {find}");
        let began = Instant::now();
        let mut last = Value::Null;
        let place = loop {
            let place = self.found_within(BOUND, &fact, &place).await;
            if place == last {
                break place;
            }
            assert!(began.elapsed() < BOUND, "not within {BOUND:?}: {fact}");
            last = place;
            tokio::time::sleep(PAUSE).await;
        };
        let event = |kind: &str, buttons: u8| {
            let (x, y) = (&place[0], &place[1]);
            json!({"type": kind, "x": x, "y": y, "button": "left", "buttons": buttons, "clickCount": 1})
        };
        // Sent at once: what is drawn anew between the two would not be pressed.
        tokio::join!(
            self.call("Input.dispatchMouseEvent", event("mousePressed", 1)),
            self.call("Input.dispatchMouseEvent", event("mouseReleased", 0)),
        );
    }

    /// Presses what an expression finds, a field, and writes there.
    ///
    /// # Panics
    /// As [`Browser::until`].
    pub async fn write(&self, find: &str, text: &str) {
        self.click(find).await;
        self.until("the field has the focus", &format!("document.activeElement === {find}")).await;
        self.call("Input.insertText", json!({"text": text})).await;
    }

    /// What the page looks like, as WebP.
    ///
    /// # Panics
    /// When the browser makes none.
    pub async fn picture(&self) -> Vec<u8> {
        let params = json!({"format": "webp", "quality": 80, "captureBeyondViewport": false});
        let taken = self.call("Page.captureScreenshot", params).await;
        STANDARD.decode(taken["data"].as_str().unwrap()).unwrap()
    }

    /// What the pages complained about so far.
    ///
    /// # Panics
    /// When whoever reads what the browser says has panicked.
    #[must_use]
    pub fn complaints(&self) -> Vec<String> {
        self.complaints.lock().unwrap().clone()
    }

    /// Ends it and waits until it has ended.
    ///
    /// # Panics
    /// When it cannot be ended.
    pub async fn close(mut self) {
        drop(self.pipe);
        if tokio::time::timeout(Duration::from_secs(5), self.child.wait()).await.is_err() {
            self.child.kill().await.unwrap();
        }
        self.reading.abort();
    }
}

/// Hands answers to those who wait and remembers complaints, until the browser ends.
async fn read(mut output: BufReader<ChildStdout>, waiting: Waiting, complaints: Arc<Mutex<Vec<String>>>) {
    let mut bytes = Vec::new();
    while output.read_until(0, &mut bytes).await.is_ok_and(|length| length > 0) {
        bytes.pop();
        let message: Value = serde_json::from_slice(&bytes).unwrap_or_default();
        bytes.clear();
        if let Some(id) = message["id"].as_u64() {
            if let Some(answer) = waiting.lock().unwrap().remove(&id) {
                // Who asked may have given up.
                let _ = answer.send(message);
            }
        } else if let Some(complaint) = complaint(&message) {
            complaints.lock().unwrap().push(complaint);
        }
    }
    // Whoever waits still learns that nothing comes.
    waiting.lock().unwrap().clear();
}

fn complaint(event: &Value) -> Option<String> {
    let params = &event["params"];
    match event["method"].as_str()? {
        "Runtime.exceptionThrown" => Some(params["exceptionDetails"].to_string()),
        "Runtime.consoleAPICalled" if matches!(params["type"].as_str(), Some("error" | "warning" | "assert")) => {
            Some(params["args"].to_string())
        }
        "Log.entryAdded" if matches!(params["entry"]["level"].as_str(), Some("error" | "warning")) => {
            let entry = &params["entry"];
            Some(format!("{} {} {}", entry["source"], entry["text"], entry["url"]))
        }
        _ => None,
    }
}
