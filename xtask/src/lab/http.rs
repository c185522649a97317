//! The naive rival: nginx at the origin, and every terminal downloads the whole from it.

use std::fs;
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::time::Duration;

use super::inside::{self, Origin, READY_WITHIN, Ready, Site};
use super::nodes::{self, Node};
use super::plan::{ORIGIN_ADDRESS, terminal_name};
use super::tools::PYTHON;
use crate::children::{Child, Ending, Launch, Output};
use crate::failure::Failure;

const SCRIPT: &str = include_str!("http.py");
const PORT: u16 = 8080;
const STARTS_WITHIN: Duration = Duration::from_secs(30);
const ENDING: Ending = Ending::terminate(Duration::from_secs(2));

struct Nginx {
    process: Child,
}

impl Origin for Nginx {
    fn check(&mut self) -> Result<(), Failure> {
        if self.process.has_ended() { Err(self.process.blame("ended by itself")) } else { Ok(()) }
    }

    /// Nobody else has anything to send.
    fn payload_sent(&mut self, received: u64) -> Result<u64, Failure> {
        Ok(received)
    }
}

/// Starts nginx and one client per terminal, each with its connection made.
pub(super) fn set_up<'a>(site: &Site<'a>) -> Result<Ready<'a>, Failure> {
    let plan = site.plan;
    let (script, t0) = (plan.folder.join("download.py"), plan.folder.join("t0"));
    fs::write(&script, SCRIPT).map_err(|error| Failure::file("write", &script, &error))?;
    let origin = Nginx { process: start(site)? };
    let mut nodes = Vec::new();
    for index in 0..plan.terminals() {
        let folder = plan.folder.join(terminal_name(index));
        fs::create_dir_all(&folder).map_err(|error| Failure::file("create", &folder, &error))?;
        let arguments = [
            script.display().to_string(),
            format!("--host={ORIGIN_ADDRESS}"),
            format!("--port={PORT}"),
            format!("--path=/{}", file_name(&plan.payload)),
            format!("--to={}", folder.join("received").display()),
            format!("--t0={}", t0.display()),
        ];
        nodes.push(Node::start(index, &folder, Path::new(PYTHON), &arguments, ENDING, site.interrupt)?);
    }
    nodes::all_ready(&mut nodes, READY_WITHIN, site.interrupt)?;
    Ok(Ready { origin: Box::new(origin), nodes, t0: inside::announce_t0(&t0)? })
}

fn start(site: &Site<'_>) -> Result<Child, Failure> {
    let folder = site.plan.folder.join("nginx");
    fs::create_dir_all(&folder).map_err(|error| Failure::file("create", &folder, &error))?;
    let configuration = folder.join("nginx.conf");
    let text = configuration_of(&folder, site.plan.payload.parent().unwrap_or(Path::new("/")));
    fs::write(&configuration, text).map_err(|error| Failure::file("write", &configuration, &error))?;
    let mut launch = Launch::new("nginx", "nginx", None, ENDING, Output::Log(folder.join("nginx.log")));
    launch.command.arg("-c").arg(&configuration).arg("-p").arg(&folder).arg("-e").arg("stderr");
    let mut process = launch.start(site.interrupt)?;
    let address = SocketAddr::from((ORIGIN_ADDRESS, PORT));
    process.ready_within(STARTS_WITHIN, || TcpStream::connect_timeout(&address, Duration::from_secs(1)).ok().map(drop))?;
    Ok(process)
}

/// Everything that nginx writes is below `folder`; what it serves is in `payloads`. The clients connect long before they ask.
fn configuration_of(folder: &Path, payloads: &Path) -> String {
    let (folder, payloads) = (folder.display(), payloads.display());
    let temporary = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"].map(|kind| format!("  {kind}_temp_path \"{folder}/{kind}\";\n"));
    format!(
        "daemon off;\nuser root;\nworker_processes 1;\npid \"{folder}/pid\";\nerror_log stderr;\nevents {{ worker_connections 1024; }}\nhttp {{\n\
         {}  access_log off;\n  sendfile on;\n  tcp_nopush on;\n  default_type application/octet-stream;\n  client_header_timeout 600s;\n  \
         send_timeout 600s;\n  server {{ listen {ORIGIN_ADDRESS}:{PORT}; root \"{payloads}\"; }}\n}}\n",
        temporary.concat()
    )
}

fn file_name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nginx_writes_below_its_folder_only_and_waits_for_clients_that_connect_early() {
        let text = configuration_of(Path::new("/lab/nginx"), Path::new("/lab"));
        for line in text.lines().filter(|line| line.contains("_path") || line.contains("pid ")) {
            assert!(line.contains("\"/lab/nginx/"), "{line}");
        }
        assert!(text.contains("client_header_timeout 600s;") && text.contains("root \"/lab\";") && text.contains("listen 10.77.0.1:8080;"));
        assert_eq!(text.matches('{').count(), text.matches('}').count());
    }
}
