//! Sockets that cross an exec, as systemd hands them over: a child that is this test binary
//! itself adopts them, and prints what came of it.
#![expect(clippy::unwrap_used, reason = "helpers of tests are tests")]

use std::fs::File;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::os::fd::OwnedFd;
use std::process::{Command, Stdio};

use masterpolicyd::listen::{self, IfTaken, Inherited, store_name};
use nix::unistd::Uid;
use socket2::{Domain, SockRef, Socket, Type};

const ADDRESSES: &str = "LISTEN_TEST_ADDRESSES";

/// Not a test in itself: what the children of the tests below run.
#[test]
fn child() {
    let Ok(addresses) = std::env::var(ADDRESSES) else {
        return;
    };
    println!(); // The harness has begun a line.
    let addresses: Vec<SocketAddr> = addresses.split(',').map(|a| a.parse().unwrap()).collect();
    let bound = Inherited::from_env()
        .and_then(|it| listen::bind(&addresses, it, &|_| vec![], &mut |_| IfTaken::GiveUp));
    match bound {
        Ok(bound) => {
            for socket in bound.sockets {
                assert!(SockRef::from(&socket.socket).nonblocking().unwrap());
                println!("> {} {}", socket.address, socket.origin);
            }
            for warning in bound.warnings {
                println!("> warning {warning}");
            }
            for name in bound.to_remove_from_store {
                println!("> remove {name}");
            }
        }
        Err(error) => println!("> error {error}"),
    }
}

/// The lines of a child that runs `script` first, with `first` as standard input and
/// `second` as standard error.
fn child_after(
    script: &str,
    first: impl Into<OwnedFd>,
    second: impl Into<OwnedFd>,
    addresses: &[SocketAddr],
) -> Vec<String> {
    let addresses: Vec<_> = addresses.iter().map(ToString::to_string).collect();
    let output = Command::new("sh")
        .args(["-c", script])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", "child", "--nocapture", "--test-threads=1"])
        .env(ADDRESSES, addresses.join(","))
        .stdin(Stdio::from(first.into()))
        .stderr(Stdio::from(second.into()))
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{text}");
    text.lines().filter_map(|line| line.strip_prefix("> ")).map(str::to_owned).collect()
}

/// A child that inherits two descriptors by these names, from number 3 on.
fn child_with(
    first: impl Into<OwnedFd>,
    second: impl Into<OwnedFd>,
    names: &str,
    addresses: &[SocketAddr],
) -> Vec<String> {
    let script = format!(
        "export LISTEN_FDS=2 LISTEN_PID=$$ LISTEN_FDNAMES='{names}'; \
         exec \"$0\" \"$@\" 3<&0 4<&2 </dev/null 2>/dev/null"
    );
    child_after(&script, first, second, addresses)
}

fn listener() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

fn null() -> File {
    File::open("/dev/null").unwrap()
}

#[test]
fn the_sockets_of_a_unit_are_served() {
    let ((first, one), (second, two)) = (listener(), listener());
    let said = child_with(first, second, "masterpolicyd.socket:masterpolicyd.socket", &[two, one]);
    assert_eq!(
        said,
        [format!("{two} from the socket unit"), format!("{one} from the socket unit")]
    );
}

#[test]
fn a_unit_and_a_configuration_that_disagree_are_refused() {
    let ((first, one), (second, two)) = (listener(), listener());
    let said = child_with(first, second, "masterpolicyd.socket:masterpolicyd.socket", &[one]);
    assert_eq!(said.len(), 1);
    assert!(said[0].contains(&format!("remove ListenStream={two} from the unit")), "{said:?}");
}

#[test]
fn the_store_gives_back_what_is_listened_on() {
    let ((first, one), (second, two)) = (listener(), listener());
    let names = format!("{}:{}", store_name(one), store_name(two));
    let said = child_with(first, second, &names, &[two]);
    assert_eq!(
        said,
        [format!("{two} from the descriptor store"), format!("remove {}", store_name(one))]
    );
}

#[test]
fn sockets_for_another_process_are_left_alone() {
    let (listener, address) = listener();
    for process in ["LISTEN_PID=1", "LISTEN_PID=", "NO_PID=1"] {
        let script = format!("export LISTEN_FDS=1 {process}; exec \"$0\" \"$@\" 3<&0 2>/dev/null");
        let said = child_after(&script, listener.try_clone().unwrap(), null(), &[address]);
        assert_eq!(said.len(), 1);
        let taken = format!("error cannot bind {address}: Address already in use");
        assert!(said[0].starts_with(&taken), "{process}: {said:?}");
    }
}

#[test]
fn what_is_no_listening_tcp_socket_is_refused_by_its_name() {
    let bound = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    bound.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
    let datagram = UdpSocket::bind("127.0.0.1:0").unwrap();
    let descriptors: [(OwnedFd, &str); 3] = [
        (null().into(), "fd 4 is not a socket"),
        (datagram.into(), "fd 4 is not a valid tcp socket"),
        (bound.into(), "it does not listen"),
    ];
    for (descriptor, reason) in descriptors {
        let (listener, address) = listener();
        let said = child_with(listener, descriptor, "one.socket:two.socket", &[address]);
        assert_eq!(
            said,
            [format!(
                "error cannot use inherited descriptor 2 (two.socket): {reason}: a socket unit \
                 must have ListenStream=ADDRESS:PORT and Accept=no"
            )]
        );
    }
}

/// Or a daemon that once stored the wrong thing could never start again.
#[test]
fn what_is_of_no_use_in_the_store_does_not_keep_from_starting() {
    let (listener, address) = listener();
    let unusable = store_name("127.0.0.1:1".parse().unwrap());
    let names = format!("{unusable}:masterpolicyd.socket");
    let said = child_with(null(), listener, &names, &[address]);
    assert_eq!(
        said,
        [
            format!("{address} from the socket unit"),
            format!("warning dropped {unusable} from the descriptor store: fd 3 is not a socket"),
            format!("remove {unusable}"),
        ]
    );
}

#[test]
fn a_host_with_ipv6_turned_off_serves_ipv4() {
    if !Uid::effective().is_root() {
        eprintln!("skipped a_host_with_ipv6_turned_off_serves_ipv4: not root");
        return;
    }
    let script = "exec unshare --net -- sh -c '
        ip link set lo up && echo 1 >/proc/sys/net/ipv6/conf/all/disable_ipv6 && exec \"$0\" \"$@\"
        ' \"$0\" \"$@\"";
    let [ipv4, wildcard, ipv6] =
        ["0.0.0.0:843", "[::]:843", "[::1]:843"].map(|text| text.parse().unwrap());
    let said = child_after(script, null(), null_for_writing(), &[ipv4, wildcard]);
    assert_eq!(said, ["0.0.0.0:843 bound", "[::]:843 bound"]);
    let said = child_after(script, null(), null_for_writing(), &[ipv4, ipv6]);
    assert_eq!(
        said,
        [
            "0.0.0.0:843 bound",
            "[::1]:843 bound",
            "warning no interface of this host has the address of [::1]:843 yet: it is served as soon \
             as one does"
        ]
    );
}

/// The system binds it, and nobody can connect.
#[test]
fn a_broadcast_address_of_a_network_is_bound_with_a_warning() {
    let addresses = ["127.255.255.255:0", "127.0.0.1:0"].map(|text| text.parse().unwrap());
    let said = child_after("exec \"$0\" \"$@\"", null(), null_for_writing(), &addresses);
    assert_eq!(
        said,
        [
            "127.255.255.255:0 bound",
            "127.0.0.1:0 bound",
            "warning 127.255.255.255 is the broadcast address of a network, and nobody can connect \
             to it: write an address of this host in listen"
        ]
    );
}

/// A route may deny an address as the kernel denies a broadcast address.
#[test]
fn a_prohibited_address_is_not_called_a_broadcast_address() {
    if !Uid::effective().is_root() {
        eprintln!("skipped a_prohibited_address_is_not_called_a_broadcast_address: not root");
        return;
    }
    let script = "exec unshare --net -- sh -c '
        ip link set lo up && ip route add prohibit 192.0.2.1 && exec \"$0\" \"$@\"
        ' \"$0\" \"$@\"";
    let address = "192.0.2.1:843".parse().unwrap();
    let said = child_after(script, null(), null_for_writing(), &[address]);
    assert_eq!(
        said,
        [
            "192.0.2.1:843 bound",
            "warning no interface of this host has the address of 192.0.2.1:843 yet: it is served as \
             soon as one does"
        ]
    );
}

fn null_for_writing() -> File {
    File::options().write(true).open("/dev/null").unwrap()
}
