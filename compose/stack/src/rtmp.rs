//! A private nginx with its RTMP module: a server of live media, which gives them out by HLS too.

use std::{
    io::{Read, Write},
    net::{Ipv4Addr, TcpStream},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use nix::sys::signal::Signal;

use crate::{StackError, home::Home, ports::free_port, programs::Programs, server::Server};

const RUN: &str = "rtmp/run";
const PACKAGE: &str = "libnginx-mod-rtmp";
/// Where Debian puts the module, and where others do.
const MODULES: [&str; 2] = ["/usr/lib/nginx/modules/ngx_rtmp_module.so", "/usr/lib64/nginx/modules/ngx_rtmp_module.so"];
/// It starts in about 30 ms.
const READY_BOUND: Duration = Duration::from_secs(30);
const ANSWER_BOUND: Duration = Duration::from_secs(2);

/// A private server of live media. Dropping it ends it.
#[derive(Debug)]
pub struct Rtmp {
    server: Server,
    program: PathBuf,
    port: u16,
    web_port: u16,
}

impl Rtmp {
    /// Starts a server in a temporary directory.
    ///
    /// # Errors
    /// What is missing, or what the server said.
    pub fn start() -> Result<Rtmp, StackError> {
        let program = Programs::installed().find("nginx", PACKAGE)?;
        let module = MODULES.into_iter().find(|module| Path::new(module).is_file());
        let module = module.ok_or(StackError::Missing { program: "ngx_rtmp_module.so", package: PACKAGE })?;
        let home = Arc::new(Home::open(None, &[RUN])?);
        let run = home.directory(RUN)?;
        let log = home.directory("rtmp/log")?.join("nginx.log");
        home.directory("rtmp/hls")?;
        let (port, web_port) = (free_port(), free_port());
        home.write("rtmp/nginx.conf", &configuration(module, &run, &home.path("rtmp/hls"), port, web_port))?;
        let server = Server::new("nginx", home, vec![run], vec![log]);
        let rtmp = Rtmp { server, program, port, web_port };
        rtmp.launch()?;
        Ok(rtmp)
    }

    fn launch(&self) -> Result<(), StackError> {
        let home = self.server.home();
        let mut command = home.command(&self.program);
        command.arg("-c").arg(home.path("rtmp/nginx.conf")).arg("-p").arg(home.path("rtmp")).args(["-e", "stderr"]);
        self.server.launch(command)?;
        self.server.ask_until_ready(READY_BOUND, || shake_hands(self.port).map_err(|error| error.to_string()))
    }

    /// `rtmp://127.0.0.1:PORT/live/KEY`. Whoever plays what nobody publishes is refused.
    pub fn url(&self, key: &str) -> String {
        format!("rtmp://127.0.0.1:{}/live/{key}", self.port)
    }

    /// The playlist of what is published under a key, in segments of a second.
    pub fn playlist(&self, key: &str) -> String {
        format!("http://127.0.0.1:{}/{key}.m3u8", self.web_port)
    }

    /// Whether somebody has begun to publish under a key since the server was first started.
    pub fn has_published(&self, key: &str) -> bool {
        self.log().contains(&format!("publish: name='{key}'"))
    }

    /// What the server has said since it was first started: each connection has a number there.
    pub fn log(&self) -> String {
        let log = self.server.home().path("rtmp/log/nginx.log");
        String::from_utf8_lossy(&std::fs::read(log).unwrap_or_default()).into_owned()
    }

    /// Kills the server with SIGKILL and returns when it is gone.
    pub fn kill(&self) {
        self.server.kill();
    }

    /// Stops the server in good order.
    pub fn stop(&self) {
        self.server.stop(Signal::SIGQUIT);
    }

    /// Starts the server again, after stopping it if it runs, at the same ports; returns when it answers.
    ///
    /// # Errors
    /// What the server said.
    pub fn restart(&self) -> Result<(), StackError> {
        self.kill();
        self.launch()
    }
}

fn configuration(module: &str, run: &Path, hls: &Path, port: u16, web_port: u16) -> String {
    let (run, hls) = (run.display(), hls.display());
    format!(
        "load_module {module};\n\
         daemon off;\n\
         master_process off;\n\
         pid {run}/nginx.pid;\n\
         error_log stderr info;\n\
         events {{ worker_connections 256; }}\n\
         rtmp {{ server {{\n\
           listen 127.0.0.1:{port};\n\
           access_log off;\n\
           ping 2s;\n\
           ping_timeout 2s;\n\
           application live {{\n\
             live on;\n\
             wait_key on;\n\
             wait_video on;\n\
             idle_streams off;\n\
             hls on;\n\
             hls_path {hls};\n\
             hls_fragment 1s;\n\
             hls_playlist_length 6s;\n\
           }}\n\
         }} }}\n\
         http {{\n\
           access_log off;\n\
           client_body_temp_path {run}/body;\n\
           proxy_temp_path {run}/proxy;\n\
           fastcgi_temp_path {run}/fastcgi;\n\
           uwsgi_temp_path {run}/uwsgi;\n\
           scgi_temp_path {run}/scgi;\n\
           server {{\n\
             listen 127.0.0.1:{web_port};\n\
             root {hls};\n\
             types {{ application/vnd.apple.mpegurl m3u8; video/mp2t ts; }}\n\
           }}\n\
         }}\n"
    )
}

/// The first half of RTMP's handshake: version 3 and 1536 bytes, answered with the same.
fn shake_hands(port: u16) -> std::io::Result<()> {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
    stream.set_read_timeout(Some(ANSWER_BOUND))?;
    let mut hello = vec![0; 1537];
    hello[0] = 3;
    stream.write_all(&hello)?;
    let mut answer = [0; 1];
    stream.read_exact(&mut answer)?;
    if answer == [3] { Ok(()) } else { Err(std::io::Error::other(format!("not RTMP: {answer:?}"))) }
}
