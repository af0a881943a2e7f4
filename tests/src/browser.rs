//! A real browser: Chromium without a window, driven through its DevTools protocol.
//!
//! With `--remote-debugging-pipe` it takes messages on descriptor 3 and answers on descriptor 4, each a JSON text that ends
//! with a zero byte. A shell puts its standard input and output there.

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use anyhow::{Context as _, bail};
use serde_json::{Value, json};

use crate::guardian::Guardian;

const ARGUMENTS: [&str; 11] = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--hide-scrollbars",
    "--remote-debugging-pipe",
];
/// Whatever happens, it does not outlive a test by more than this.
const SECONDS_MAX: &str = "240";

/// What the person in front of the page prefers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheme {
    /// Dark on light.
    Light,
    /// Light on dark.
    Dark,
}

/// A running browser. It ends when this is dropped.
pub struct Browser {
    process: Child,
    to: ChildStdin,
    from: BufReader<ChildStdout>,
    messages: u64,
}

/// An open page of a [`Browser`].
#[derive(Debug)]
pub struct Page {
    session: String,
}

impl Browser {
    /// Starts it with a profile of its own below `folder`.
    ///
    /// # Errors
    /// If there is no chromium.
    pub fn start(folder: &Path, guardian: &Guardian) -> anyhow::Result<Browser> {
        let profile = format!("--user-data-dir={}", folder.join("browser").display());
        let mut command = Command::new("timeout");
        command.args([
            "-k",
            "5",
            SECONDS_MAX,
            "sh",
            "-c",
            "exec chromium \"$@\" 3<&0 4>&1 </dev/null >/dev/null 2>&1",
            "sh",
        ]);
        command.args(ARGUMENTS).arg(profile).arg("about:blank");
        let mut process =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().context("timeout, sh, chromium")?;
        guardian.process(process.id());
        let to = process.stdin.take().context("piped")?;
        let from = BufReader::new(process.stdout.take().context("piped")?);
        Ok(Browser { process, to, from, messages: 0 })
    }

    /// Opens an address in a window of this width, as on a telephone where that is narrow.
    ///
    /// # Errors
    /// With what the browser says.
    pub fn open(&mut self, address: &str, width: u32, scheme: Scheme) -> anyhow::Result<Page> {
        let target = self.ask(None, "Target.createTarget", &json!({ "url": "about:blank" }))?;
        let attach = json!({ "targetId": target["targetId"], "flatten": true });
        let attached = self.ask(None, "Target.attachToTarget", &attach)?;
        let page = Page { session: attached["sessionId"].as_str().context("a session")?.to_owned() };
        let metrics = json!({ "width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 600 });
        self.ask(Some(&page), "Emulation.setDeviceMetricsOverride", &metrics)?;
        let preferred = if scheme == Scheme::Dark { "dark" } else { "light" };
        let features = json!({ "features": [{ "name": "prefers-color-scheme", "value": preferred }] });
        self.ask(Some(&page), "Emulation.setEmulatedMedia", &features)?;
        let navigated = self.ask(Some(&page), "Page.navigate", &json!({ "url": address }))?;
        if let Some(error) = navigated["errorText"].as_str() {
            bail!("{address}: {error}");
        }
        Ok(page)
    }

    /// The value of an expression of JavaScript on the page.
    ///
    /// # Errors
    /// With what it threw.
    pub fn evaluate(&mut self, page: &Page, expression: &str) -> anyhow::Result<Value> {
        let parameters = json!({ "expression": expression, "returnByValue": true, "awaitPromise": true });
        let evaluated = self.ask(Some(page), "Runtime.evaluate", &parameters)?;
        if !evaluated["exceptionDetails"].is_null() {
            bail!("{expression}: {:#}", evaluated["exceptionDetails"]);
        }
        Ok(evaluated["result"]["value"].clone())
    }

    /// Sends one request and reads until its answer has come; events in between mean nothing here.
    fn ask(&mut self, page: Option<&Page>, method: &str, parameters: &Value) -> anyhow::Result<Value> {
        self.messages += 1;
        let mut request = json!({ "id": self.messages, "method": method, "params": parameters });
        if let Some(page) = page {
            request["sessionId"] = page.session.as_str().into();
        }
        let mut bytes = serde_json::to_vec(&request)?;
        bytes.push(0);
        self.to.write_all(&bytes)?;
        loop {
            let mut answer = Vec::new();
            self.from.read_until(0, &mut answer)?;
            if answer.pop() != Some(0) {
                bail!("chromium ended before it answered {method}");
            }
            let answer: Value = serde_json::from_slice(&answer)?;
            if answer["id"] == self.messages {
                return match &answer["error"] {
                    Value::Null => Ok(answer["result"].clone()),
                    error => bail!("{method}: {error}"),
                };
            }
        }
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        if self.ask(None, "Browser.close", &json!({})).is_err() {
            // `timeout` hands the end on to what it runs.
            let _ = self.process.kill();
        }
        let _ = self.process.wait();
    }
}
