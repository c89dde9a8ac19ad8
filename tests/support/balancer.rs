//! What balancers send before the client's own bytes: headers of the PROXY protocol, written here
//! by hand from its text and not by the code under test. And balancers themselves.

use std::net::{IpAddr, SocketAddr, TcpStream};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;

use super::{SOON, Scratch, find_program, skip};

const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";

/// A header of version 1.
pub(crate) fn line(client: SocketAddr, asked: SocketAddr) -> Vec<u8> {
    let family = if client.is_ipv4() { "TCP4" } else { "TCP6" };
    let (from, to) = (client.ip(), asked.ip());
    format!("PROXY {family} {from} {to} {} {}\r\n", client.port(), asked.port()).into_bytes()
}

/// A header of version 1 that does not say who the client is.
pub(crate) fn unknown() -> Vec<u8> {
    b"PROXY UNKNOWN\r\n".to_vec()
}

/// A header of version 2; in IPv6 where one of the two is.
pub(crate) fn v2(client: SocketAddr, asked: SocketAddr) -> Vec<u8> {
    let mut addresses = Vec::new();
    let transport = match (client.ip(), asked.ip()) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            addresses.extend([from.octets(), to.octets()].concat());
            0x11
        }
        (from, to) => {
            for address in [from, to] {
                addresses.extend(match address {
                    IpAddr::V4(address) => address.to_ipv6_mapped().octets(),
                    IpAddr::V6(address) => address.octets(),
                });
            }
            0x21
        }
    };
    for port in [client.port(), asked.port()] {
        addresses.extend(port.to_be_bytes());
    }
    let length = u8::try_from(addresses.len()).expect("a short header");
    [&SIGNATURE[..], &[0x21, transport, 0, length], &addresses].concat()
}

/// A header of version 2 for a connection of the balancer's own.
pub(crate) fn local() -> Vec<u8> {
    [&SIGNATURE[..], &[0x20, 0, 0, 0]].concat()
}

/// A balancer of somebody else's, at work until it is dropped.
#[derive(Debug)]
pub(crate) struct Balancer {
    child: Child,
    /// Where it keeps its configuration.
    pub(crate) directory: Scratch,
}

impl Balancer {
    /// `HAProxy` with this configuration, in which `DIRECTORY` stands for its own. It takes
    /// connections on `address` when this returns. `None` where it is not installed.
    pub(crate) fn haproxy(
        test: &str,
        directory: Scratch,
        configuration: &str,
        address: SocketAddr,
    ) -> Option<Self> {
        let program = find_program("haproxy").or_else(|| {
            skip(test, "haproxy is not installed");
            None
        })?;
        let path = directory.path().to_str().expect("a path in UTF-8");
        let file = directory.file("haproxy.cfg", configuration.replace("DIRECTORY", path));
        let mut command = Command::new(program);
        // In the foreground; a master that starts a new worker on SIGUSR2.
        command.args(["-W", "-db", "-q"]).arg("-f").arg(file);
        Some(Self::start(command, directory, address))
    }

    /// nginx, which passes connections to `address` on to `server`, each with a header. `None` where
    /// it is not installed.
    pub(crate) fn nginx(test: &str, address: SocketAddr, server: SocketAddr) -> Option<Self> {
        let stream =
            format!("server {{ listen {address}; proxy_pass {server}; proxy_protocol on; }}");
        Self::nginx_with(test, &stream, address)
    }

    /// nginx with these servers of its stream module, of which `address` is one. `None` where it is not
    /// installed.
    pub(crate) fn nginx_with(test: &str, stream: &str, address: SocketAddr) -> Option<Self> {
        const MODULE: &str = "/usr/lib/nginx/modules/ngx_stream_module.so";
        let Some(program) = find_program("nginx").filter(|_| Path::new(MODULE).exists()) else {
            skip(test, "nginx or its stream module is not installed");
            return None;
        };
        let directory = Scratch::new();
        let configuration = format!(
            "load_module {MODULE};\n\
             daemon off;\nmaster_process off;\nerror_log stderr crit;\npid {0}/pid;\n\
             events {{ worker_connections 4096; }}\n\
             stream {{ {stream} }}\n",
            directory.path().display()
        );
        let file = directory.file("nginx.conf", configuration);
        let mut command = Command::new(program);
        command.arg("-p").arg(directory.path()).args(["-e", "stderr"]).arg("-c").arg(file);
        Some(Self::start(command, directory, address))
    }

    fn start(mut command: Command, directory: Scratch, address: SocketAddr) -> Self {
        let child = command.process_group(0).stdin(Stdio::null()).spawn().expect("the balancer");
        let mut balancer = Self { child, directory };
        let deadline = Instant::now() + SOON;
        while TcpStream::connect(address).is_err() {
            let ended = balancer.child.try_wait().expect("its state");
            assert!(
                ended.is_none() && Instant::now() < deadline,
                "it takes no connection: {ended:?}"
            );
            thread::sleep(Duration::from_millis(10));
        }
        balancer
    }

    fn group(&self) -> Pid {
        Pid::from_raw(i32::try_from(self.child.id()).expect("a process id"))
    }

    /// Has `HAProxy` read its configuration again, in a new worker.
    pub(crate) fn reload(&self) {
        kill(self.group(), Signal::SIGUSR2).expect("a signal");
    }
}

impl Drop for Balancer {
    fn drop(&mut self) {
        // Not reaped before this, so the group is still its own.
        let _ = killpg(self.group(), Signal::SIGKILL);
        let _ = self.child.wait();
    }
}
