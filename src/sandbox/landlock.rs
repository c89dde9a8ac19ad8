//! Files to read and nothing else: no other file, no new connection, no signal to others.

use std::fs::File;
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use ::landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, LandlockStatus, PathBeneath, RestrictionStatus,
    Ruleset, RulesetAttr, RulesetCreatedAttr, RulesetError, Scope, make_bitflags,
};

use crate::sandbox::active::{Missing, Skipped};

/// The newest interface that this list of rights was made for. An older kernel enforces what it
/// knows of it.
const NEWEST: ABI = ABI::V10;

/// Restricts the calling thread; returns the version of the interface that the kernel and
/// this program have in common.
pub(super) fn restrict(readable: &[PathBuf], skipped: &mut Vec<Skipped>) -> Result<u32, Missing> {
    let mut rules = Vec::with_capacity(readable.len());
    for path in readable {
        match rule_for(path) {
            Ok(rule) => rules.push(rule),
            Err(reason) => skipped.push(Skipped { path: path.clone(), reason }),
        }
    }
    let status = enforce(rules).map_err(|error| Missing::Refused(error.to_string()))?;
    match status.landlock {
        LandlockStatus::NotEnabled => Err(Missing::NotEnabled),
        LandlockStatus::NotImplemented => Err(Missing::NotBuilt),
        LandlockStatus::Available { effective_abi, .. } => Ok(effective_abi as u32),
    }
}

/// Handles every right there is, so that each is denied except for what the rules allow.
fn enforce(rules: Vec<PathBeneath<File>>) -> Result<RestrictionStatus, RulesetError> {
    Ruleset::default()
        .handle_access(AccessFs::from_all(NEWEST))?
        .handle_access(AccessNet::from_all(NEWEST))?
        .scope(Scope::from_all(NEWEST))?
        .create()?
        .add_rules(rules.into_iter().map(Ok::<_, RulesetError>))?
        .restrict_self()
}

fn rule_for(path: &Path) -> io::Result<PathBeneath<File>> {
    // Naming a file takes no right to read it.
    let beneath = File::options().read(true).custom_flags(libc::O_PATH).open(path)?;
    let rights: BitFlags<AccessFs> = if beneath.metadata()?.is_dir() {
        make_bitflags!(AccessFs::{ReadFile | ReadDir})
    } else {
        AccessFs::ReadFile.into()
    };
    Ok(PathBeneath::new(beneath, rights))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sandbox::active::FIRST_ABI_WITH_NETWORK;
    use std::fs;
    use std::net::{TcpListener, TcpStream};
    use std::os::linux::net::SocketAddrExt;
    use std::os::unix::net::{SocketAddr, UnixDatagram};
    use std::slice;
    use std::thread;

    /// Runs in a thread of its own what goes without seccomp, which would end the process first.
    /// Without Landlock in the kernel, says that the test was skipped.
    fn restricted(test: &str, readable: &[PathBuf], body: impl FnOnce(u32) + Send) {
        thread::scope(|scope| {
            let thread = scope.spawn(|| match restrict(readable, &mut Vec::new()) {
                Ok(abi) => body(abi),
                Err(missing) => {
                    use std::io::Write;
                    let line = format!("skipped {test}: no landlock ({missing})\n");
                    io::stderr().write_all(line.as_bytes()).unwrap();
                }
            });
            thread.join().unwrap();
        });
    }

    #[track_caller]
    fn assert_denied<T>(result: io::Result<T>) {
        let error = result.err().expect("it must be denied");
        assert_eq!(error.kind(), io::ErrorKind::PermissionDenied, "{error}");
    }

    fn directory(name: &str) -> PathBuf {
        let path =
            std::env::temp_dir().join(format!("masterpolicyd-{name}-{}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        fs::write(path.join("file"), "inside").unwrap();
        path
    }

    #[test]
    fn what_is_readable_is_not_writable() {
        let inside = directory("landlock-directory");
        restricted("what_is_readable_is_not_writable", slice::from_ref(&inside), |abi| {
            assert_eq!(fs::read(inside.join("file")).unwrap(), b"inside");
            assert_eq!(fs::read_dir(&inside).unwrap().count(), 1);
            assert_denied(File::create(inside.join("new")));
            assert_denied(File::options().append(true).open(inside.join("file")));
            assert_denied(fs::remove_file(inside.join("file")));
            assert_denied(fs::create_dir(inside.join("new")));
            assert_denied(fs::read_dir(inside.parent().unwrap()));
            assert_denied(fs::read("/proc/self/status"));
            if abi >= 3 {
                assert_denied(nix::unistd::truncate(&inside.join("file"), 0).map_err(Into::into));
            }
        });
        fs::remove_dir_all(&inside).unwrap();
    }

    #[test]
    fn a_single_file_can_be_readable_without_its_neighbours() {
        let inside = directory("landlock-file");
        fs::write(inside.join("neighbour"), "").unwrap();
        let test = "a_single_file_can_be_readable_without_its_neighbours";
        restricted(test, &[inside.join("file")], |_| {
            assert_eq!(fs::read(inside.join("file")).unwrap(), b"inside");
            assert_denied(fs::read(inside.join("neighbour")));
            assert_denied(fs::read_dir(&inside));
        });
        fs::remove_dir_all(&inside).unwrap();
    }

    #[test]
    fn nothing_can_be_bound_or_connected_to() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        restricted("nothing_can_be_bound_or_connected_to", &[], |abi| {
            if abi >= FIRST_ABI_WITH_NETWORK {
                assert_denied(TcpStream::connect(address));
                assert_denied(TcpListener::bind("127.0.0.1:0"));
            }
        });
        TcpStream::connect(address).expect("other threads are free");
    }

    /// systemd's notify socket is abstract in some containers, and is connected before.
    #[test]
    fn a_socket_that_is_connected_goes_on_notifying() {
        const FIRST_ABI_WITH_SCOPES: u32 = 6;
        let name = format!("masterpolicyd-test-{}", std::process::id());
        let address = SocketAddr::from_abstract_name(&name).unwrap();
        let supervisor = UnixDatagram::bind_addr(&address).unwrap();
        let notify = UnixDatagram::unbound().unwrap();
        notify.connect_addr(&address).unwrap();
        restricted("a_socket_that_is_connected_goes_on_notifying", &[], |abi| {
            notify.send(b"READY=1").unwrap();
            supervisor.recv(&mut [0; 8]).unwrap();
            if abi >= FIRST_ABI_WITH_SCOPES {
                assert_denied(UnixDatagram::unbound().unwrap().connect_addr(&address));
            }
        });
    }
}
