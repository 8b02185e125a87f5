use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, ensure};
use certs::{Folder, Outcome, Role, cloud_roles, gateway_roles, shared_gateway_roles};
use clap::{Args, Subcommand, ValueEnum};
use records::GatewayId;
use serde_json::{Value, json};
use service::Secret;

use crate::client::print;

/// Makes and renews certificates.
#[derive(Args, Debug)]
pub(crate) struct CertsArgs {
    #[command(subcommand)]
    action: Action,
    /// The folder of the CA and all roles' files
    #[arg(
        long,
        env = "ZEELOS_CERTS_DIR",
        default_value = "security",
        value_name = "FOLDER"
    )]
    dir: PathBuf,
    /// The password of keystores and truststores
    #[arg(
        long,
        env = "ZEELOS_CERTS_PASSWORD",
        default_value = "itsasecret",
        hide_env_values = true,
        hide_default_value = true
    )]
    password: Secret,
    /// The folder that the client properties name, where the files are used at another place
    #[arg(long, value_name = "FOLDER")]
    secrets_dir: Option<PathBuf>,
}

#[derive(Subcommand, Debug)]
enum Action {
    /// Make what is missing: the CA, and a certificate for each role; renew those that end soon
    Create(CreateArgs),
    /// Make new keys and certificates for these roles, whatever is there
    Renew {
        /// The roles, as `certs list` shows them
        #[arg(required = true)]
        roles: Vec<String>,
        /// How many days the new ones count
        #[arg(long, default_value_t = DAYS, value_parser = clap::value_parser!(u32).range(1..=3650))]
        days: u32,
    },
    /// List certificates with their names and ends; ends with 1 when one has ended or is another CA's
    List {
        /// How to print
        #[arg(long, value_enum, default_value = "text")]
        output: Output,
    },
    /// Remove the CA and all roles' files
    Clean,
}

#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
enum Output {
    Text,
    Json,
}

#[derive(Args, Debug)]
struct CreateArgs {
    /// A gateway that gets certificates of its own (may be given more than once)
    #[arg(long, value_name = "ID")]
    gateway: Vec<GatewayId>,
    /// A further role, by its name (may be given more than once)
    #[arg(long, value_name = "NAME")]
    role: Vec<String>,
    /// Only the roles of --gateway and --role: not the cloud's, nor those that all gateways share
    #[arg(long)]
    only: bool,
    /// All are reached as localhost, 127.0.0.1 and ::1 too
    #[arg(long)]
    localhost: bool,
    /// A further name or address that all are reached by (may be given more than once)
    #[arg(long, value_name = "NAME")]
    san: Vec<String>,
    /// How many days a certificate counts
    #[arg(long, default_value_t = DAYS, value_parser = clap::value_parser!(u32).range(1..=3650))]
    days: u32,
    /// How many days the CA counts
    #[arg(long, default_value_t = CA_DAYS, value_parser = clap::value_parser!(u32).range(1..=36500))]
    ca_days: u32,
    /// Renew a certificate that ends within so many days
    #[arg(long, default_value_t = RENEW_DAYS, value_name = "DAYS")]
    renew_before: u32,
}

/// Two years and a quarter, as browsers took it at most: long enough for a gateway that is visited once a year.
const DAYS: u32 = 825;
const CA_DAYS: u32 = 3650;
const RENEW_DAYS: u32 = 30;

impl CertsArgs {
    pub(crate) fn run(self) -> anyhow::Result<ExitCode> {
        match &self.action {
            Action::Create(args) => self.create(args),
            Action::Renew { roles, days: count } => self.renew(roles, *count),
            Action::List { output } => self.list(*output),
            Action::Clean => {
                let removed = Folder::clean(&self.dir)?;
                print(format!("{removed} files removed from {}\n", self.dir.display()).as_bytes())
            }
        }
    }

    fn folder(&self, ca_length: Duration) -> anyhow::Result<Folder> {
        let password = self.password.expose();
        // Java's keytool refuses shorter ones.
        ensure!(
            password.chars().count() >= 6,
            "the password needs at least 6 characters: Java takes none that is shorter"
        );
        let folder = Folder::open_or_create(&self.dir, now_s(), ca_length)?.password(password);
        Ok(match &self.secrets_dir {
            Some(secrets) => folder.secrets(secrets),
            None => folder,
        })
    }

    /// A folder that is there already: listing and renewing make no CA.
    fn existing(&self) -> anyhow::Result<Folder> {
        ensure!(
            self.dir.join("zeelos.io-ca.crt").exists(),
            "there is no CA in {}: zeelos certs create makes one",
            self.dir.display()
        );
        self.folder(days(CA_DAYS))
    }

    fn create(&self, args: &CreateArgs) -> anyhow::Result<ExitCode> {
        let folder = self.folder(days(args.ca_days))?;
        let mut text = String::new();
        for role in args.roles()? {
            let outcome = folder.ensure(&role, days(args.days), days(args.renew_before))?;
            let word = match outcome {
                Outcome::Created => "created",
                Outcome::Renewed => "renewed",
                Outcome::Kept => "kept",
            };
            text.push_str(&format!("{word:<8} {}\n", role.name()));
        }
        text.push_str(&format!(
            "in {}; the CA is {}\n",
            self.dir.display(),
            folder.ca_certificate().display()
        ));
        print(text.as_bytes())
    }

    fn renew(&self, roles: &[String], count: u32) -> anyhow::Result<ExitCode> {
        let folder = self.existing()?;
        let known = folder.roles()?;
        let mut wanted = Vec::new();
        for role in roles {
            ensure!(
                known.contains(role),
                "there is no role '{role}' in {}; there are {}",
                self.dir.display(),
                known.join(", ")
            );
            wanted.push(folder.role(role)?);
        }
        for role in &wanted {
            folder.issue(role, days(count))?;
        }
        print(format!("renewed  {}\n", roles.join(", ")).as_bytes())
    }

    fn list(&self, output: Output) -> anyhow::Result<ExitCode> {
        let entries = self.existing()?.list()?;
        let now = now_s();
        let (mut text, mut all, mut bad) = (
            format!("{:<36} {:>10} {:>6}  names\n", "role", "ends", "days"),
            Vec::new(),
            false,
        );
        for entry in entries {
            let left = (entry.until_s - now).div_euclid(86_400);
            let trouble = match (entry.trusted, entry.until_s > now) {
                (false, _) => "  ANOTHER CA'S",
                (true, false) => "  ENDED",
                (true, true) => "",
            };
            bad |= !trouble.is_empty();
            text.push_str(&format!(
                "{:<36} {:>10} {left:>6}  {}{trouble}\n",
                entry.role,
                date(entry.until_s),
                entry.names.join(", ")
            ));
            all.push(json!({
                "role": entry.role,
                "file": entry.file,
                "names": entry.names,
                "not_before": entry.from_s,
                "not_after": entry.until_s,
                "days_left": left,
                "trusted": entry.trusted,
            }));
        }
        match output {
            Output::Text => print(text.as_bytes())?,
            Output::Json => print(format!("{:#}\n", Value::Array(all)).as_bytes())?,
        };
        Ok(if bad {
            ExitCode::FAILURE
        } else {
            ExitCode::SUCCESS
        })
    }
}

impl CreateArgs {
    fn roles(&self) -> anyhow::Result<Vec<Role>> {
        let mut roles = Vec::new();
        if !self.only {
            roles.extend(cloud_roles());
            roles.extend(shared_gateway_roles());
        }
        for gateway in &self.gateway {
            roles.extend(gateway_roles(gateway.as_str())?);
        }
        for name in &self.role {
            roles.push(Role::new(name)?);
        }
        ensure!(!roles.is_empty(), "--only needs a --gateway or a --role");
        let mut called: Vec<&str> = self.san.iter().map(String::as_str).collect();
        if self.localhost {
            called.extend(["localhost", "127.0.0.1", "::1"]);
        }
        let reached = |mut role: Role| {
            for name in &called {
                role = match name.parse() {
                    Ok(address) => role.at(address),
                    Err(_) => role.called(name),
                };
            }
            role
        };
        Ok(roles.into_iter().map(reached).collect())
    }
}

fn days(count: u32) -> Duration {
    Duration::from_secs(u64::from(count) * 86_400)
}

fn now_s() -> i64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .context("the clock stands before 1970");
    since.map_or(0, |since| {
        i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
    })
}

/// `YYYY-MM-DD` of a time in Unix seconds (the proleptic Gregorian calendar, by days since 1 March of year 0).
fn date(unix_s: i64) -> String {
    let days = unix_s.div_euclid(86_400) + 719_468;
    let era = days.div_euclid(146_097);
    let day_of_era = days.rem_euclid(146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = (month_from_march + 2) % 12 + 1;
    let year = era * 400 + year_of_era + i64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_the_calendars() {
        for (unix_s, expected) in [
            (0, "1970-01-01"),
            (951_782_400, "2000-02-29"),
            (1_709_251_199, "2024-02-29"),
            (1_709_251_200, "2024-03-01"),
            (4_102_444_799, "2099-12-31"),
        ] {
            assert_eq!(date(unix_s), expected);
        }
    }
}
