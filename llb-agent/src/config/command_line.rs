// SPDX-License-Identifier: Apache-2.0
//! Puts flags, environment and configuration file together. What is given in several places counts in this
//! order: flag, environment variable, file, default.

use std::fs;
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::ArgMatches;
use clap::parser::ValueSource;

use super::environment::Environment;
use super::file::{
    AT_START, Effective, Keys, Layer, Mistake, Mistakes, Origin, Value, argument, name, parse,
};
use super::settings::Config;
use super::validate::ConfigError;

/// The file that is read if none is named.
pub(super) const DEFAULT_FILE: &str = "/etc/llb/llb.toml";

/// The largest file, in bytes. It is read as a whole.
const LARGEST: u64 = 1 << 20;

/// Where the configuration comes from. It can be put together again later, when the file has changed.
#[derive(Clone, Debug)]
pub struct CommandLine {
    flags: Layer,
    file: PathBuf,
    /// `--config` names the file, so it must be there.
    is_named: bool,
    environment: Environment,
}

/// The configuration that results from everything that was given.
#[derive(Clone, Debug)]
pub struct Configured {
    /// As the agent uses it.
    pub config: Config,
    /// As texts, with their origins.
    pub effective: Effective,
    /// Of the configuration file; `None` if there is none.
    pub content: Option<Vec<u8>>,
    /// The values that were given.
    given: Layer,
    /// What it was made of.
    pub command_line: CommandLine,
}

impl Configured {
    /// What a running agent uses that has this configuration, when it gets a new one: what can't be changed while it
    /// runs stays.
    ///
    /// # Errors
    /// What stays does not go together with what is new. Or the file has gone: nobody wants to give up all pools
    /// and limits in this way.
    pub fn reloaded(&self, new: &Self) -> Result<Self, ConfigError> {
        if self.content.is_some() && new.content.is_none() {
            return Err(ConfigError::Gone { file: self.command_line.file.clone() });
        }
        let mut given = new.given.clone();
        for key in AT_START {
            match self.given.get(key) {
                Some(values) => drop(given.insert(key.to_owned(), values.clone())),
                None => drop(given.remove(key)),
            }
        }
        self.command_line.configured(&Keys::new(), given, new.content.clone())
    }
}

impl CommandLine {
    /// What the command line gives. `default_file` is read if it names no file.
    pub(super) fn of(matches: &ArgMatches, default_file: &Path, environment: Environment) -> Self {
        let keys = Keys::new();
        let given = keys
            .all()
            .filter(|arg| matches.value_source(arg.get_id().as_str()) == Some(ValueSource::CommandLine));
        let flags = given.map(|arg| {
            let raw = matches.get_raw(arg.get_id().as_str()).into_iter().flatten();
            let values =
                raw.map(|text| Value { text: text.to_string_lossy().into_owned(), origin: Origin::Flag });
            (name(arg).to_owned(), values.collect())
        });
        let named = matches.get_one::<PathBuf>("config").cloned();
        let is_named = named.is_some();
        Self {
            flags: flags.collect(),
            file: named.unwrap_or_else(|| default_file.to_owned()),
            is_named,
            environment,
        }
    }

    #[cfg(test)]
    pub(super) fn set_environment(&mut self, environment: Environment) {
        self.environment = environment;
    }

    /// The configuration file, whether it exists or not.
    pub fn file(&self) -> &Path {
        &self.file
    }

    /// Reads the file, and puts everything together.
    ///
    /// # Errors
    /// The file can't be read, or something in it or in the flags is wrong. The error names the place.
    pub fn configure(&self) -> Result<Configured, ConfigError> {
        let keys = Keys::new();
        let name: Arc<str> = self.file.display().to_string().into();
        let content = self.read()?;
        let file = match &content {
            Some(content) => {
                let text =
                    str::from_utf8(content).map_err(|error| self.unreadable(io::Error::other(error)))?;
                parse(text, &name, &keys).map_err(ConfigError::File)?
            }
            None => Layer::new(),
        };
        let mut given = self.without_overridden(file, &keys);
        given.extend(self.flags.clone());
        self.configured(&keys, given, content)
    }

    fn configured(
        &self,
        keys: &Keys,
        given: Layer,
        content: Option<Vec<u8>>,
    ) -> Result<Configured, ConfigError> {
        let config = self.checked(keys, &given)?;
        let mut all = given.clone();
        all.extend(self.environment_layer(keys, &given));
        let effective = Effective::of(keys, &all);
        Ok(Configured { config, effective, content, given, command_line: self.clone() })
    }

    /// The content of the file; `None` if there is none and none is named.
    fn read(&self) -> Result<Option<Vec<u8>>, ConfigError> {
        match self.content() {
            Ok(content) => Ok(Some(content)),
            Err(error) if !self.is_named && error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(self.unreadable(error)),
        }
    }

    /// The content of the file.
    ///
    /// # Errors
    /// It is not there, no regular file, too large, or can't be read.
    pub fn content(&self) -> io::Result<Vec<u8>> {
        let mut content = Vec::new();
        // Otherwise the opening of a named pipe waits for a writer.
        let file = fs::OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(&self.file)?;
        if !file.metadata()?.is_file() {
            return Err(io::Error::other("it is no regular file; a running agent could not read it again"));
        }
        file.take(LARGEST + 1).read_to_end(&mut content)?;
        if content.len() as u64 > LARGEST {
            let text = format!("it has more than {LARGEST} bytes; that is no configuration file");
            return Err(io::Error::other(text));
        }
        Ok(content)
    }

    fn unreadable(&self, source: io::Error) -> ConfigError {
        ConfigError::Unreadable { path: self.file.clone(), source }
    }

    /// The keys of the file that no flag and no environment variable overrides. A flag also overrides the keys
    /// that can't be given together with it.
    fn without_overridden(&self, mut file: Layer, keys: &Keys) -> Layer {
        file.retain(|key, _| {
            let mut flags = self.flags.keys();
            !flags.any(|flag| flag == key || keys.are_in_conflict(flag, key))
        });
        if self.environment.kubeconfig.is_some() {
            file.remove(KUBECONFIG);
        }
        file
    }

    fn checked(&self, keys: &Keys, given: &Layer) -> Result<Config, ConfigError> {
        let arguments = keys.all().flat_map(|arg| {
            let values = given.get(name(arg)).into_iter().flatten();
            values.filter_map(|value| argument(arg, &value.text))
        });
        let args = keys
            .read(&arguments.collect::<Vec<_>>())
            .map_err(|error| ConfigError::Flags { text: error.to_string() })?;
        let mut config = Config::try_from(args).map_err(|error| at_its_line(error, given))?;
        if config.links.is_empty() {
            return Err(ConfigError::NoLink { file: self.file.clone() });
        }
        if let Some(filter) = self.log_variable() {
            config.log = filter.to_owned();
        }
        Ok(config)
    }

    /// `$RUST_LOG`, if it counts.
    fn log_variable(&self) -> Option<&str> {
        self.environment.log.as_deref().filter(|_| !self.flags.contains_key(LOG))
    }

    /// What counts from the environment. It is not checked: an unusable variable is reported where it is used.
    fn environment_layer(&self, keys: &Keys, given: &Layer) -> Layer {
        let is_possible = |key: &str| given.keys().all(|other| !keys.are_in_conflict(other, key));
        let kubeconfig = self
            .environment
            .kubeconfig
            .as_deref()
            .filter(|_| !self.flags.contains_key(KUBECONFIG) && is_possible(KUBECONFIG));
        let all = [(KUBECONFIG, "KUBECONFIG", kubeconfig), (LOG, "RUST_LOG", self.log_variable())];
        let counts = all.into_iter().filter_map(|(key, variable, text)| {
            let value = Value { text: text?.to_owned(), origin: Origin::Environment(variable) };
            Some((key.to_owned(), vec![value]))
        });
        counts.collect()
    }
}

const KUBECONFIG: &str = "kubeconfig";
const LOG: &str = "log";

/// Says in which line of the file the key is that does not fit to the others, if it is in a file.
fn at_its_line(error: ConfigError, given: &Layer) -> ConfigError {
    let place = error.key().and_then(|(key, text)| {
        let values = given.get(key)?;
        let value = values.iter().rfind(|value| error.is_about(&value.text)).or(values.first())?;
        Some((key, text, &value.origin))
    });
    match place {
        Some((key, text, Origin::File { name, line })) => {
            let mistake = Mistake { line: *line, key: Some(key.to_owned()), text };
            ConfigError::File(Mistakes { name: Arc::clone(name), all: vec![mistake] })
        }
        _ => error,
    }
}

/// Checks a file by itself, without flags and environment. Returns whether it names a link device.
///
/// # Errors
/// It can't be read, or something in it is wrong.
pub fn check_file(path: &Path) -> Result<bool, ConfigError> {
    let line = CommandLine {
        flags: Layer::new(),
        file: path.to_owned(),
        is_named: true,
        environment: Environment::default(),
    };
    match line.configure() {
        Ok(_) => Ok(true),
        Err(ConfigError::NoLink { .. }) => Ok(false),
        Err(error) => Err(error),
    }
}
