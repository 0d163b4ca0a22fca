//! The TOML file, with the line of everything that is wrong in it.

use std::{
    fs,
    ops::Range,
    path::{Path, PathBuf},
};

use toml::de::DeTable;

use super::{Config, ConfigError, Raw};

/// Reads and checks a file.
///
/// # Errors
/// The first thing that is wrong, with its line.
pub(crate) fn read(path: &Path) -> Result<Config, ConfigError> {
    let place = path.display().to_string();
    let text = fs::read_to_string(path)
        .map_err(|error| ConfigError { place: place.clone(), message: format!("cannot be read: {error}") })?;
    parse(&text, &place, &directory(path))
}

/// The directory that a file lies in, from which its relative paths count.
pub(crate) fn directory(file: &Path) -> PathBuf {
    let directory = file.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    std::path::absolute(directory).unwrap_or_else(|_| directory.to_owned())
}

/// Takes a file's text; `place` is its name in errors, and relative paths count from `directory`.
///
/// # Errors
/// The first thing that is wrong, with its line.
pub(crate) fn parse(text: &str, place: &str, directory: &Path) -> Result<Config, ConfigError> {
    let at = |span: Option<Range<usize>>| match span {
        Some(span) => format!("{place}:{}", line(text, span.start)),
        None => place.to_owned(),
    };
    let table = DeTable::parse(text)
        .map_err(|error| ConfigError { place: at(error.span()), message: error.message().to_owned() })?;
    let mut config = Config::default();
    for (name, value) in table.get_ref() {
        config.lay(name.get_ref(), &Raw::Toml(value.get_ref(), directory), || at(Some(name.span())))?;
    }
    config.check().map_err(|(name, fault)| {
        let span = table.get_ref().iter().find(|(found, _)| found.get_ref() == name).map(|(found, _)| found.span());
        ConfigError { place: at(span), message: format!("`{name}`: {fault}") }
    })?;
    Ok(config)
}

/// The line of a position, from 1.
fn line(text: &str, position: usize) -> usize {
    text.as_bytes()[..position.min(text.len())].iter().filter(|byte| **byte == b'\n').count() + 1
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str, place: &str) -> Result<Config, ConfigError> {
        super::parse(text, place, Path::new("/etc/insidb"))
    }

    #[test]
    fn relative_paths_count_from_the_files_directory() {
        let config =
            parse("data_dir = \".\"\npublic_tls_key = \"tls/k.pem\"\npublic_tls_certificate = \"/c.pem\"\n", "f");
        let paths = config.map(|config| (config.data_dir, config.public_tls_key, config.public_tls_certificate));
        let expected = ("/etc/insidb".into(), Some("/etc/insidb/tls/k.pem".into()), Some("/c.pem".into()));
        assert_eq!(paths, Ok(expected));
        // What the file does not set counts from the working directory, as everywhere else.
        assert_eq!(parse("", "f").map(|config| config.data_dir), Ok("insidb-data".into()));
    }

    #[test]
    fn faults_come_with_their_line() {
        for (text, expected) in [
            (
                "# a comment\nmax_value_sise = 5\n",
                "f:2: there is no setting `max_value_sise`; the nearest is `max_value_size`",
            ),
            ("\n\nscans_max = \"many\"\n", "f:3: `scans_max` must be a whole number, 0 or more"),
            ("scans_max = -1\n", "f:1: `scans_max` must be a whole number, 0 or more"),
            ("scans_max = 0\n", "f:1: `scans_max`: it must be 1 to 256, and is 0"),
            (
                "public_address = \"here\"\n",
                "f:1: `public_address` must be an address with a port, as in \"127.0.0.1:8080\"",
            ),
            (
                "permitted_ips = [\"10.0.0.0/8\", 5]\n",
                "f:1: `permitted_ips` must be a list of networks, as in [\"10.0.0.0/8\"]",
            ),
            ("log_format = \"xml\"\n", "f:1: `log_format` must be \"auto\", \"text\" or \"json\""),
            (
                "public_tls_key = \"k.pem\"\n",
                "f: `public_tls_certificate`: the certificate and its key go together: give both or none",
            ),
            ("max_value_size = 16777217\n", "f:1: `max_value_size`: it must be 1 to 16777216, and is 16777217"),
            ("[table]\nscans_max = 1\n", "f:1: there is no setting `table`; the nearest is `join`"),
        ] {
            let found = parse(text, "f").map(drop).map_err(|error| error.to_string());
            assert_eq!(found, Err(expected.to_owned()), "{text}");
        }
        assert!(parse("a = = 1", "f").is_err_and(|error| error.place == "f:1"));
        assert!(parse("scans_max = 1\nscans_max = 2\n", "f").is_err_and(|error| error.place == "f:2"));
    }

    #[test]
    fn whole_numbers_may_be_grouped_and_based() {
        let config = parse("scans_max = 0x10\ncache_bytes_max = 2_000_000\n", "f");
        assert_eq!(config.map(|config| (config.scans_max, config.cache_bytes_max)), Ok((16, 2_000_000)));
    }
}
