//! Files on disk to a policy and settings, with the place of everything in them.
//!
//! [`load`] reads the main file and every drop-in that counts, and reports all that is wrong with
//! any of them at once. It knows nothing of what is done with the result.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::fmt::Write as _;
use std::fs::File;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

pub mod bounds;
mod drop_ins;
mod files;
mod guard;
mod lint;
mod main_file;
mod problem;
mod rules;
pub mod settings;
mod syntax;
mod table;
pub mod trust;
pub mod walk;
mod watched;
mod write;

pub use drop_ins::Masked;
pub use files::{CanRead, Find, MAX_FILE_SIZE, Trust};
pub use problem::{Excerpt, Place, Problem, Problems, Severity, Spot};
pub use rules::PlacedRule;
pub use settings::{Keeper, LogSettings, Sandbox, Settings};
pub use watched::watched;

use crate::account::{Account, AccountError};
use crate::document::{Documents, MAX_SIZE, TooLong};
use crate::policy::{MASTER_PORT, MetaPolicy, Policy, Rule};
use crate::printable::{path_word, shortened};
use drop_ins::Format;
use files::{Directory, Files, Opened, ReadFile, Role, Text};
use guard::{Guard, Judgement, ServiceReader};
use main_file::MainFile;
use trust::Trusted;
use walk::Stop;

/// A configuration without errors.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Configuration {
    /// What the main file sets.
    pub settings: Settings,
    /// The rules of all files, those of the main file first, then drop-in by drop-in. One that
    /// occurs several times counts once, at its first place.
    pub rules: Vec<PlacedRule>,
    /// The policy as it is served.
    pub documents: Documents,
    /// What is probably not meant.
    pub warnings: Vec<Problem>,
    /// Every file that was read.
    pub files: Vec<PathBuf>,
    /// Drop-ins that do not count, because an earlier directory has a file of that name.
    pub masked: Vec<Masked>,
    /// Files of the policy directories whose names are not those of drop-ins.
    pub skipped: Vec<PathBuf>,
    /// Drop-ins of packages that do not count, because they are broken.
    pub left_out: Vec<LeftOut>,
    /// Who may have written it.
    pub trusted: Trusted,
    /// Whom the daemon becomes, where that is known.
    pub account: Option<Account>,
}

/// A drop-in of a package, or a directory of them, that is broken and does not count. The rest of
/// the configuration does: a package must not keep the administrator, or another package, from
/// taking a grant away.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeftOut {
    /// The file or the directory.
    pub path: PathBuf,
    /// What is wrong with it, and last what to do.
    pub problems: Vec<Problem>,
}

impl LeftOut {
    fn new(path: &Path, mut problems: Vec<Problem>, settings: &Settings) -> Self {
        // Only what is looked through before it masks it.
        let mut earlier = settings.policy_dirs.iter().take_while(|dir| path.parent() != Some(dir));
        let is_of_administrator = |dir: &&PathBuf| settings.keeper_of(dir) == Keeper::Administrator;
        let mask = earlier.find(is_of_administrator);
        let name = path.file_name().filter(|_| Format::of(path).is_some());
        let remedy = match (mask, name) {
            (Some(dir), Some(name)) => {
                format!(", or mask it: ln -s /dev/null {}", path_word(&dir.join(name)))
            }
            _ => String::new(),
        };
        let fact = if name.is_some() {
            "this file of a package is left out because of its errors, and all other files count; \
             report it to the package"
        } else {
            "this directory of packages is left out because of its errors, and all others count"
        };
        problems.push(Problem::about(path, format!("{fact}{remedy}")));
        Self { path: path.to_owned(), problems }
    }
}

impl Configuration {
    /// The policy that it makes, whose rules have the indices of `rules`.
    #[must_use]
    pub fn policy(&self) -> Policy {
        policy_of(self.settings.meta_policy, &self.rules)
    }

    /// The rules that the masked files would contribute if they counted, as far as they can be read,
    /// may be trusted, and are no more than a configuration may have.
    #[must_use]
    pub fn masked_rules(&self) -> Vec<(&Masked, PlacedRule)> {
        let mut sum = bounds::Sum::default();
        let mut found = Vec::new();
        for masked in &self.masked {
            let files = Files::beside(&masked.path);
            let opened = files.open(&masked.path, Role::DropIn);
            sum.add_lookups(opened.trail.lookups.len());
            let judgement = Guard::new(self.trusted, &files).judge(&opened);
            if judgement.problems.iter().any(Problem::is_error) {
                continue;
            }
            let Ok(Some(file)) = opened.read() else { continue };
            let (rules, _) = read_rules(&file);
            found.extend(rules.into_iter().map(|placed| (masked, placed)));
            if sum.add_file(&file).and(sum.admit(&masked.path)).is_err()
                || found.len() >= bounds::RULES
            {
                break;
            }
        }
        found
    }

    /// Everything that is wrong with it: what is left out, and what is probably not meant.
    pub fn problems(&self) -> impl Iterator<Item = &Problem> {
        self.left_out.iter().flat_map(|left_out| &left_out.problems).chain(&self.warnings)
    }
}

/// Reads the main file at `path` and every drop-in that counts.
///
/// # Errors
/// All that is wrong, warnings included. Nothing is ever taken for its default because it could
/// not be read.
pub fn load(path: &Path, trust: &Trust<'_>) -> Result<Configuration, Problems> {
    Loader::new(path, trust).load(Intent::Look)
}

/// As [`load`], for one who is about to serve: started as root, there must be a `user` to become.
///
/// # Errors
/// As [`load`].
pub fn load_to_serve(path: &Path, trust: &Trust<'_>) -> Result<Configuration, Problems> {
    Loader::new(path, trust).load(Intent::Serve)
}

/// What somebody asks a main file for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wanted {
    /// `user`.
    User,
    /// `metrics.listen`.
    MetricsListen,
}

/// What the main file at `path` sets, for one who only asks how its daemon is started. No drop-in is
/// read, and a key with an error has its default, but for the one that is `wanted`.
///
/// # Errors
/// It cannot be read, has a syntax error or one in what is wanted, or may have been written by
/// others.
pub fn settings(path: &Path, trust: &Trust<'_>, wanted: Wanted) -> Result<Settings, Problems> {
    Loader::new(path, trust).settings(wanted)
}

/// Where the way to `path` ends before its end, without a link on it, for the main file at `main`.
#[must_use]
pub fn end_of_way(main: &Path, path: &Path) -> Option<PathBuf> {
    match Files::beside(main).trail(path) {
        (_, Some(Stop::System(place, _))) => Some(place),
        _ => None,
    }
}

/// What is wrong with the text of a main file, were it at `path`. Looks at no file, so that it
/// tells nothing of drop-ins, and nothing of who may write what.
#[must_use]
pub fn judge_text(path: &Path, text: &str) -> Vec<Problem> {
    main_file::read(path, text).1
}

/// What is to say about a file alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JudgedFile {
    /// What is wrong with it.
    pub problems: Vec<Problem>,
    /// How many different rules it has.
    pub rules: usize,
}

/// Reads the main file or drop-in at `path` alone, before it is installed: not who may write it, and
/// nothing that other files say.
#[must_use]
pub fn judge_file(path: &Path) -> JudgedFile {
    Loader::new(path, &Trust::of_this_process()).judge_alone()
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Intent {
    Look,
    Serve,
}

/// One run over all files.
struct Loader<'a> {
    path: &'a Path,
    trust: &'a Trust<'a>,
    sum: bounds::Sum,
    problems: Vec<Problem>,
    left_out: Vec<LeftOut>,
    files: Vec<PathBuf>,
    skipped: Vec<PathBuf>,
    /// The device and the number of the main file.
    main_end: Option<(u64, u64)>,
}

impl<'a> Loader<'a> {
    fn new(path: &'a Path, trust: &'a Trust<'a>) -> Self {
        Self {
            path,
            trust,
            sum: bounds::Sum::default(),
            problems: Vec::new(),
            left_out: Vec::new(),
            files: Vec::new(),
            skipped: Vec::new(),
            main_end: None,
        }
    }

    fn load(mut self, intent: Intent) -> Result<Configuration, Problems> {
        let files = Files::beside(self.path);
        let opened = files.open(self.path, Role::MainFile);
        let anyone = Trusted { starting_uid: self.trust.starting_uid, service_uid: None };
        let judgement = Guard::new(anyone, &files).judge(&opened);
        if !judgement.is_where_it_should_be {
            return Err(Problems(judgement.problems));
        }
        let trace = opened.trace();
        let file = self.expect_content(opened).map_err(|mut problem| {
            self.explain_denial(&mut problem);
            Problems(vec![problem])
        })?;
        let Some(mut main) = self.read_main_file(&file) else {
            // Whatever else was told would be about settings that nobody made.
            self.problems.extend(judgement.problems);
            return Err(self.into_problems());
        };
        let account = self.judge_account(&main, intent);
        let service_uid = account.as_ref().map(|account| account.uid);
        let trusted = Trusted { service_uid, ..anyone };
        let reader = account.as_ref().map(|account| ServiceReader {
            account,
            can_read: self.trust.can_read,
            // The units start it as that user.
            severity: if intent == Intent::Serve && self.trust.starting_uid == 0 {
                Severity::Error
            } else {
                Severity::Warning
            },
        });
        self.main_end = trace.end.as_ref().map(|end| end.status.identity());
        let mut guard = Guard::new(trusted, &files).naming(self.trust.name_of).for_reader(reader);
        self.problems.extend(guard.judge(&trace).problems);
        let mut rules = std::mem::take(&mut main.rules);
        // What is beyond the bounds is an error, and no more is read or said of it.
        let is_within = self.is_within(|sum| sum.add_file(&file))
            && self.is_within(|sum| sum.add_rules(rules.iter().map(|placed| &placed.spot)));
        let masked = if is_within {
            self.problems.extend(beyond_ceiling(&main, &rules));
            self.read_drop_ins(&main, &files, &mut guard, &mut rules)
        } else {
            None
        };
        let Some(masked) = masked else { return Err(self.into_problems()) };
        self.leave_out_what_does_not_fit(&main, &mut rules);
        let skipped = std::mem::take(&mut self.skipped);
        let (rules, documents) = self.judge_rules(&main, rules);
        let files = std::mem::take(&mut self.files);
        let is_usable = !self.problems.iter().any(Problem::is_error);
        let left_out = if is_usable { std::mem::take(&mut self.left_out) } else { Vec::new() };
        let problems = self.into_problems();
        let (Some(documents), None) = (documents, problems.errors().next()) else {
            return Err(problems);
        };
        Ok(Configuration {
            settings: main.settings,
            rules,
            documents,
            warnings: problems.0,
            files,
            masked,
            skipped,
            left_out,
            trusted,
            account,
        })
    }

    fn settings(mut self, wanted: Wanted) -> Result<Settings, Problems> {
        let files = Files::beside(self.path);
        let opened = files.open(self.path, Role::MainFile);
        let anyone = Trusted { starting_uid: self.trust.starting_uid, service_uid: None };
        let judgement = Guard::new(anyone, &files).judge(&opened);
        if judgement.problems.iter().any(Problem::is_error) {
            return Err(Problems(judgement.problems));
        }
        let file = self.expect_content(opened).map_err(|problem| Problems(vec![problem]))?;
        let Some(main) = self.read_main_file(&file) else { return Err(self.into_problems()) };
        let (key, is_set) = match wanted {
            Wanted::User => ("user", main.settings.user.is_some()),
            Wanted::MetricsListen => ("metrics", main.settings.metrics_listen.is_some()),
        };
        if let Some(spot) = main.values.get(key).filter(|_| !is_set) {
            self.problems.retain(|it| it.is_error() && it.place >= spot.place);
            if !self.problems.is_empty() {
                return Err(self.into_problems());
            }
        }
        Ok(main.settings)
    }

    /// Whether there is room for more; a problem if not.
    fn is_within(&mut self, count: impl FnOnce(&mut bounds::Sum) -> Result<(), Problem>) -> bool {
        let counted = count(&mut self.sum);
        counted.map_err(|problem| self.problems.push(problem)).is_ok()
    }

    /// All problems, in the order in which the files are read. What would be left out is among
    /// them: where there are others, nothing counts.
    fn into_problems(mut self) -> Problems {
        self.problems.extend(self.left_out.drain(..).flat_map(|left_out| left_out.problems));
        let main_file = self.path;
        self.problems.sort_by(|one, other| {
            let rank = |problem: &Problem| problem.place.path != main_file;
            (rank(one), &one.place).cmp(&(rank(other), &other.place))
        });
        Problems(self.problems)
    }

    fn judge_alone(mut self) -> JudgedFile {
        let rules = match Files::beside(self.path).open(self.path, Role::DropIn).read() {
            Ok(Some(file)) if !file.bytes.is_empty() => self.read_alone(&file),
            Ok(_) => {
                let message = "this file is empty; as a drop-in it masks one of its name in a \
                               later directory, and as a main file it is an error";
                let place = Place::start_of(self.path);
                self.problems.push(Problem::new(Severity::Warning, place, message));
                0
            }
            Err(problem) => {
                self.problems.push(problem);
                0
            }
        };
        self.problems.sort_by(|one, other| one.place.cmp(&other.place));
        JudgedFile { problems: self.problems, rules }
    }

    /// A file in TOML that has any other key than the rules is a main file, unless it lies in a
    /// directory of drop-ins.
    fn read_alone(&mut self, file: &ReadFile) -> usize {
        let (format, is_xml) = (Format::of(self.path), looks_like_xml(file));
        let may_be_main_file = !is_xml && format != Some(Format::Xml);
        let is_in_policy_d = self.path.parent().is_some_and(|it| it.ends_with("policy.d"));
        let text = file.utf8().unwrap_or_default();
        let (main, problems) = main_file::read(self.path, if may_be_main_file { text } else { "" });
        let Some(mut main) = main else {
            self.problems.extend(bounds::first_of(problems));
            return 0;
        };
        let has_settings = main.values.keys().any(|key| key != rules::KEY);
        let rules = if has_settings && !is_in_policy_d {
            self.problems.extend(bounds::first_of(problems));
            std::mem::take(&mut main.rules)
        } else {
            if let (Some(without), _) = main_file::read(self.path, "") {
                main = without;
            }
            let (rules, problems) = if is_xml && format.is_none() {
                rules::read_xml(self.path, &file.bytes)
            } else {
                read_rules(file)
            };
            self.problems.extend(bounds::first_of(problems));
            if format.is_none() {
                let message = "the name of a drop-in has to end in .toml or .xml, and must not \
                               begin with a dot; under this name it is skipped";
                let place = Place::start_of(self.path);
                self.problems.push(Problem::new(Severity::Warning, place, message));
            }
            rules
        };
        if !self.is_within(|sum| sum.add_rules(rules.iter().map(|placed| &placed.spot))) {
            return rules.len();
        }
        self.problems.extend(beyond_ceiling(&main, &rules));
        let (rules, _) = self.judge_rules(&main, rules);
        rules.len()
    }

    fn expect_content(&mut self, opened: Opened<File>) -> Result<ReadFile, Problem> {
        let Some(file) = opened.read()?.filter(|file| !file.bytes.is_empty()) else {
            // It was lost, not left empty: nobody writes a configuration that says nothing.
            return Err(Problem::about(
                self.path,
                "this file is empty; write at least one setting, such as meta-policy = \
                 \"master-only\"",
            ));
        };
        self.files.push(self.path.to_owned());
        Ok(file)
    }

    /// What the main file says; nothing where that cannot be known.
    fn read_main_file(&mut self, file: &ReadFile) -> Option<MainFile> {
        let text = match file.utf8() {
            Ok(text) => text,
            Err(problem) => {
                self.problems.push(problem);
                return None;
            }
        };
        let (main, problems) = main_file::read(self.path, text);
        self.problems.extend(bounds::first_of(problems));
        main
    }

    /// Finds out whom the daemon becomes, if that can be known.
    fn judge_account(&mut self, main: &MainFile, intent: Intent) -> Option<Account> {
        let is_started_as_root = self.trust.starting_uid == 0;
        let spot = main.values.get("user");
        let (Some(user), Some(spot)) = (&main.settings.user, spot) else {
            if spot.is_none() && is_started_as_root && intent == Intent::Serve {
                let message = AccountError::NoUser.to_string();
                self.problems.push(Problem::about(self.path, message));
            }
            return None;
        };
        let error = match (self.trust.find)(user, main.settings.group.as_deref()) {
            Ok(account) => return account,
            Err(error) => error,
        };
        let spot = main.values.get("group").filter(|_| error.is_about_group()).unwrap_or(spot);
        // A user database that does not answer is not the configuration's fault: it is for the
        // start to fail, and to be tried again. And who is not root stays who he is.
        let is_error = error.is_configuration()
            && (is_started_as_root || matches!(error, AccountError::RootUser(_)));
        let severity = if is_error { Severity::Error } else { Severity::Warning };
        let message = error.to_string();
        self.problems.push(Problem::at(severity, spot, shortened(&message)));
        None
    }

    /// Reads all drop-ins, and returns those that are masked; nothing if it is too much in all.
    fn read_drop_ins(
        &mut self,
        main: &MainFile,
        files: &Files,
        guard: &mut Guard<'_>,
        rules: &mut Vec<PlacedRule>,
    ) -> Option<Vec<Masked>> {
        let settings = &main.settings;
        let directories = self.open_policy_dirs(files, guard, settings);
        let found = drop_ins::find(&directories, |dir| settings.keeper_of(&dir.path));
        self.skipped.clone_from(&found.skipped);
        for problem in found.problems {
            if problem.is_error() {
                let path = problem.place.path.clone();
                self.take_in(&path, vec![problem], settings);
            } else {
                self.problems.push(problem);
            }
        }
        // Packages get the room that the administrator's files leave.
        let (own, of_packages): (Vec<_>, Vec<_>) = found
            .files
            .iter()
            .partition(|(_, dir)| settings.keeper_of(&dir.path) == Keeper::Administrator);
        let mut by_name = BTreeMap::new();
        for (name, directory) in own.into_iter().chain(of_packages) {
            let path = directory.path.join(name);
            if let Err(problem) = self.sum.admit(&path) {
                if self.take_in(&path, vec![problem], settings) {
                    return None;
                }
                continue;
            }
            let opened = directory.open(name, files);
            self.sum.add_lookups(opened.trail.lookups.len());
            if self.is_main_file(&opened) {
                let message = "this is the main file as well as one of its drop-ins, and is read \
                               once; name the main file with -c";
                let place = Place::start_of(&opened.path);
                self.problems.push(Problem::new(Severity::Warning, place, message));
                continue;
            }
            let before = self.sum.clone();
            let DropIn { rules, problems, size } = self.read_drop_in(opened, guard, main);
            if self.take_in(&path, problems, settings) {
                by_name.insert(name, rules);
                if size == Size::TooMuch {
                    return None;
                }
            } else {
                self.sum.leave_out(&before);
            }
        }
        rules.extend(by_name.into_values().flatten());
        Some(found.masked)
    }

    /// Leaves out the drop-ins of packages for which the document has no room, in the order of their
    /// names. What is too long without them stays.
    fn leave_out_what_does_not_fit(&mut self, main: &MainFile, rules: &mut Vec<PlacedRule>) {
        let Settings { meta_policy, port_ranges, .. } = main.settings;
        let length = |rules: &HashSet<&Rule>| {
            let rules = rules.iter().map(|rule| (*rule).clone()).collect();
            let documents = Documents::encode(&Policy { meta_policy, rules }, port_ranges)?;
            Ok::<_, TooLong>(documents.for_port(MASTER_PORT).bytes().len())
        };
        let keeper = |file: &[PlacedRule]| match file[0].spot.place.path.as_path() {
            path if path == self.path => Keeper::Administrator,
            path => path.parent().map_or(Keeper::Administrator, |dir| main.settings.keeper_of(dir)),
        };
        let files = rules.chunk_by(|one, other| one.spot.place.path == other.spot.place.path);
        let (own, of_packages): (Vec<_>, Vec<_>) =
            files.partition(|file| keeper(file) == Keeper::Administrator);
        if of_packages.is_empty() {
            return;
        }
        let mut kept: HashSet<_> = own.into_iter().flatten().map(|placed| &placed.rule).collect();
        let (Ok(empty), Ok(mut sum)) = (length(&HashSet::new()), length(&kept)) else { return };
        let mut left_out = BTreeSet::new();
        for file in of_packages {
            let mut more: HashSet<_> = file.iter().map(|placed| &placed.rule).collect();
            more.retain(|rule| !kept.contains(rule));
            match length(&more) {
                Ok(length) if sum + length - empty <= MAX_SIZE => {
                    sum += length - empty;
                    kept.extend(more);
                }
                _ => {
                    left_out.insert(file[0].spot.place.path.clone());
                }
            }
        }
        rules.retain(|placed| !left_out.contains(&placed.spot.place.path));
        for path in left_out {
            let problem = Problem::about(&path, format!("with this file {TooLong}"));
            self.left_out.push(LeftOut::new(&path, vec![problem], &main.settings));
        }
    }

    fn is_main_file(&self, opened: &Opened<File>) -> bool {
        let end = opened.end.as_ref().map(|end| end.status.identity());
        end.is_some() && end == self.main_end
    }

    /// Takes in what is wrong with a file or directory. Returns whether it counts: what comes from
    /// a package and is broken does not.
    fn take_in(&mut self, path: &Path, mut problems: Vec<Problem>, settings: &Settings) -> bool {
        for problem in &mut problems {
            self.explain_denial(problem);
        }
        let directory = if Format::of(path).is_some() { path.parent() } else { Some(path) };
        let keeper = directory.map_or(Keeper::Administrator, |dir| settings.keeper_of(dir));
        // What the system lacks for the moment is no fault of the package, whose grants stay until
        // it can be read.
        let is_broken = problems.iter().any(Problem::is_error)
            && !problems.iter().any(|problem| problem.is_for_now);
        if keeper == Keeper::Vendor && is_broken {
            self.left_out.push(LeftOut::new(path, problems, settings));
            return false;
        }
        self.problems.extend(problems);
        true
    }

    /// Says what may be the reason where the sandbox or the mode of a file denies it: the system does
    /// not tell which.
    fn explain_denial(&self, problem: &mut Problem) {
        if let Some(check) = self.trust.outside_sandbox.filter(|_| problem.is_denied) {
            // Writing to a string does not fail.
            let _ = write!(
                problem.message,
                "; if {check} can read it, the sandbox does not reach what was not there at the \
                 start: restart the daemon"
            );
        }
    }

    /// The directories of drop-ins that can be looked through, each once.
    fn open_policy_dirs(
        &mut self,
        files: &Files,
        guard: &mut Guard<'_>,
        settings: &Settings,
    ) -> Vec<Directory> {
        let mut directories: Vec<Directory> = Vec::new();
        for path in &settings.policy_dirs {
            let Some(directory) = self.open_policy_dir(path, files, guard, settings) else {
                continue;
            };
            match directories.iter().find(|first| first.is(&directory)) {
                // By a link, as of a merged /usr. Its files would mask themselves.
                Some(first) => {
                    let message = format!(
                        "this directory is {} too, and is read once; remove one of them from \
                         policy-dirs",
                        first.path.display()
                    );
                    let place = Place::start_of(path);
                    self.problems.push(Problem::new(Severity::Warning, place, message));
                }
                None => directories.push(directory),
            }
        }
        directories
    }

    /// A directory of drop-ins, if there is one that can be looked through.
    fn open_policy_dir(
        &mut self,
        path: &Path,
        files: &Files,
        guard: &mut Guard<'_>,
        settings: &Settings,
    ) -> Option<Directory> {
        let opened = files.open_directory(path);
        let Judgement { mut problems, may_stay, .. } = guard.judge(&opened);
        if !may_stay {
            problems.extend(self.unread(path, "directory", settings.keeper_of(path), &problems));
        }
        let directory = match opened.content() {
            Ok(directory) => {
                if directory.is_none() {
                    log::debug!("{} does not exist, so it holds no drop-ins", path.display());
                }
                directory
            }
            Err(problem) => {
                problems.push(problem);
                None
            }
        };
        let counts = self.take_in(path, problems, settings);
        // What is to be moved away from is not looked into: most of it may be another's.
        directory.filter(|_| counts && may_stay)
    }

    /// That something is not read, where the reason was told of something else behind the same
    /// directory, and that does not keep the whole configuration from loading.
    fn unread(&self, path: &Path, what: &str, keeper: Keeper, told: &[Problem]) -> Option<Problem> {
        let message =
            format!("this {what} is not read, because other users can change where its path leads");
        let may_load = keeper == Keeper::Vendor || !self.left_out.is_empty();
        (may_load && !told.iter().any(Problem::is_error)).then(|| Problem::about(path, message))
    }

    /// Reads one drop-in, if it is for nobody else to say what that is.
    fn read_drop_in(
        &mut self,
        opened: Opened<File>,
        guard: &mut Guard<'_>,
        main: &MainFile,
    ) -> DropIn {
        (self.trust.pause)();
        let Judgement { mut problems, is_where_it_should_be, .. } = guard.judge(&opened);
        let mut drop_in = DropIn { rules: Vec::new(), problems: Vec::new(), size: Size::Within };
        if !is_where_it_should_be {
            let directory = opened.path.parent().unwrap_or(&opened.path);
            let keeper = main.settings.keeper_of(directory);
            problems.extend(self.unread(&opened.path, "file", keeper, &problems));
            return DropIn { problems, ..drop_in };
        }
        match opened.read() {
            Ok(None) => {}
            Ok(Some(file)) => {
                self.files.push(file.path.clone());
                if let Err(problem) = self.sum.add_file(&file) {
                    problems.push(problem);
                    return DropIn { problems, size: Size::TooMuch, ..drop_in };
                }
                let (rules, faults) = read_rules(&file);
                problems.extend(bounds::first_of(faults));
                problems.extend(beyond_ceiling(main, &rules));
                if let Err(problem) = self.sum.add_rules(rules.iter().map(|placed| &placed.spot)) {
                    problems.push(problem);
                    drop_in.size = Size::TooMuch;
                }
                drop_in.rules = rules;
            }
            Err(problem) => problems.push(problem),
        }
        DropIn { problems, ..drop_in }
    }

    /// Judges all rules together. Returns each of them once, and the documents that they make,
    /// unless those are too long.
    fn judge_rules(
        &mut self,
        main: &MainFile,
        rules: Vec<PlacedRule>,
    ) -> (Vec<PlacedRule>, Option<Documents>) {
        let Settings { listen, meta_policy, players, port_ranges, balancers, .. } = &main.settings;
        (self.trust.pause)();
        let (rules, repeated) = first_of_equals(rules);
        (self.trust.pause)();
        let policy = policy_of(*meta_policy, &rules);
        self.problems.extend(lint::open_doors(&rules));
        // Behind a balancer, it is the balancer's port that a player asks.
        if balancers.is_empty() {
            self.problems.extend(lint::low_ports(&rules, listen));
        }
        self.problems.extend(lint::balancers(balancers, &main.balancer_spots, listen));
        self.problems.extend(lint::useless(&policy, &rules, &repeated));
        (self.trust.pause)();
        self.problems.extend(lint::kept_ranges(&rules, *port_ranges));
        self.problems.extend(lint::misread(&rules, players, *port_ranges));
        let spot = main.values.get("meta-policy");
        self.problems.extend(lint::void_rules(&rules, *meta_policy, spot));
        let documents = match Documents::encode(&policy, *port_ranges) {
            Ok(documents) => documents,
            Err(error) => {
                self.problems.push(Problem::about(self.path, error.to_string()));
                return (rules, None);
            }
        };
        let balanced = (!balancers.is_empty()).then_some(MASTER_PORT);
        let longest = documents.longest(listen.iter().map(SocketAddr::port).chain(balanced));
        self.problems.extend(lint::large_document(longest, Place::start_of(self.path)));
        (rules, Some(documents))
    }
}

/// What a drop-in comes to.
struct DropIn {
    rules: Vec<PlacedRule>,
    problems: Vec<Problem>,
    size: Size,
}

/// Whether there is room for more than what was read.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Size {
    Within,
    TooMuch,
}

/// An error for each rule that grants more than it may, with what to do about it.
fn beyond_ceiling(main: &MainFile, rules: &[PlacedRule]) -> Vec<Problem> {
    let ceiling = main.settings.grantable_ports.joined();
    let Some(spot) = main.values.get("grantable-ports") else { return Vec::new() };
    let beyond = rules.iter().filter(|placed| !ceiling.covers(&placed.rule.ports));
    let written = main.settings.grantable_ports.brief();
    let problem = |placed: &PlacedRule| {
        let message = format!(
            "this rule grants {}, but grantable-ports allows only \"{written}\" ({}); grant fewer \
             ports, or add them there",
            placed.rule.ports.brief(),
            spot.place
        );
        Problem::at(Severity::Error, &placed.spot, message)
    };
    beyond.map(problem).collect()
}

/// The rules of a drop-in, in whichever format its name tells, and what is wrong with them.
fn read_rules(file: &ReadFile) -> (Vec<PlacedRule>, Vec<Problem>) {
    // An empty file masks another one of its name, and is neither TOML nor XML.
    if file.bytes.is_empty() {
        return (Vec::new(), Vec::new());
    }
    let format = Format::of(&file.path);
    let wrong = match format {
        Some(Format::Toml) if looks_like_xml(file) => {
            Some("this is XML; give the file a name that ends in .xml")
        }
        Some(Format::Xml) if begins_with(file, |byte| byte.is_ascii_graphic() && byte != b'<') => {
            Some("this is not XML; if it is TOML, give the file a name that ends in .toml")
        }
        _ => None,
    };
    if let (Some(message), Ok(text)) = (wrong, file.utf8()) {
        let spot = Text::of(&file.path, text).at(0);
        return (Vec::new(), vec![Problem::at(Severity::Error, &spot, message)]);
    }
    match (format, file.utf8()) {
        (Some(Format::Xml), _) => rules::read_xml(&file.path, &file.bytes),
        (_, Ok(text)) => rules::read_toml(&file.path, text),
        (_, Err(problem)) => (Vec::new(), vec![problem]),
    }
}

/// Whether it is XML whatever its name says: no TOML begins like that.
fn looks_like_xml(file: &ReadFile) -> bool {
    begins_with(file, |byte| byte == b'<')
}

/// Whether the first byte that is not white space is such a one.
fn begins_with(file: &ReadFile, is_such: fn(u8) -> bool) -> bool {
    let bytes = file.bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&file.bytes);
    bytes.trim_ascii_start().first().is_some_and(|byte| is_such(*byte))
}

fn policy_of(meta_policy: MetaPolicy, rules: &[PlacedRule]) -> Policy {
    Policy { meta_policy, rules: rules.iter().map(|placed| placed.rule.clone()).collect() }
}

/// The rules without those that occur a second time, whose spots come with the index of the first.
fn first_of_equals(rules: Vec<PlacedRule>) -> (Vec<PlacedRule>, Vec<(Spot, usize)>) {
    let mut seen: HashMap<Rule, usize> = HashMap::with_capacity(rules.len());
    let (mut firsts, mut repeated) = (Vec::with_capacity(rules.len()), Vec::new());
    for placed in rules {
        if let Some(&first) = seen.get(&placed.rule) {
            repeated.push((placed.spot, first));
        } else {
            seen.insert(placed.rule.clone(), firsts.len());
            firsts.push(placed);
        }
    }
    (firsts, repeated)
}

#[cfg(test)]
mod tests {
    use nix::errno::Errno;

    use super::*;

    fn unread(errno: Errno) -> Problem {
        Problem::unread(Path::new("usr/game.toml"), "cannot read", errno)
    }

    #[test]
    fn only_what_a_sandbox_may_have_denied_is_told_of_the_sandbox() {
        let told = |outside_sandbox, errno| {
            let trust = Trust { outside_sandbox, ..Trust::of_this_process() };
            let mut problem = unread(errno);
            Loader::new(Path::new("main.toml"), &trust).explain_denial(&mut problem);
            problem.message.contains("; if masterpolicyd check can read it, the sandbox does not")
        };
        let check = Some("masterpolicyd check");
        assert!(told(check, Errno::EACCES));
        assert!(!told(check, Errno::ENOENT));
        assert!(!told(None, Errno::EACCES));
    }

    #[test]
    fn a_drop_in_of_a_package_is_not_left_out_for_what_the_system_lacks_for_the_moment() {
        let settings = Settings { vendor_dirs: vec!["usr".into()], ..Settings::default() };
        let trust = Trust::of_this_process();
        let counts = |errno| {
            let mut loader = Loader::new(Path::new("main.toml"), &trust);
            loader.take_in(Path::new("usr/game.toml"), vec![unread(errno)], &settings)
        };
        assert!(counts(Errno::EMFILE));
        assert!(!counts(Errno::EIO));
    }

    #[test]
    fn a_text_is_judged_as_a_main_file_would_be() {
        let problems = judge_text(Path::new("main.toml"), "watch = true\ncolour = 1\n");
        let told: Vec<_> = problems.iter().map(ToString::to_string).collect();
        assert_eq!(told, ["main.toml:2:1: unknown key \"colour\"; see masterpolicyd.toml(5)"]);
    }
}
