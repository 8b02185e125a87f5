use std::path::PathBuf;

use clap::Args;

use super::{ClientAuth, ServerTls, TlsError, TlsFiles};
use crate::Secret;

/// The options of a process's listeners that have to do with TLS.
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "TLS of the listeners")]
pub struct ListenerTlsArgs {
    /// The certificate of this process's listeners (PEM); with it they speak TLS
    #[arg(
        long,
        env = "ZEELOS_TLS_CERTIFICATE_LOCATION",
        value_name = "FILE",
        global = true,
        hide_short_help = true
    )]
    pub tls_certificate_location: Option<PathBuf>,
    /// The certificate's private key (PEM)
    #[arg(
        long,
        env = "ZEELOS_TLS_KEY_LOCATION",
        value_name = "FILE",
        global = true,
        hide_short_help = true
    )]
    pub tls_key_location: Option<PathBuf>,
    /// Certificate and key in one file (PKCS#12 or PEM), in place of the two
    #[arg(
        long,
        env = "ZEELOS_TLS_KEYSTORE_LOCATION",
        value_name = "FILE",
        global = true,
        hide_short_help = true
    )]
    pub tls_keystore_location: Option<PathBuf>,
    /// The password of the keystore or the key
    #[arg(
        long,
        env = "ZEELOS_TLS_PASSWORD",
        value_name = "PASSWORD",
        hide_env_values = true,
        global = true,
        hide_short_help = true
    )]
    pub tls_password: Option<Secret>,
    /// The CA that clients' certificates come from (PEM, or a PKCS#12 truststore)
    #[arg(
        long,
        env = "ZEELOS_TLS_CA_LOCATION",
        value_name = "FILE",
        global = true,
        hide_short_help = true
    )]
    pub tls_ca_location: Option<PathBuf>,
    /// The password of the truststore
    #[arg(
        long,
        env = "ZEELOS_TLS_CA_PASSWORD",
        value_name = "PASSWORD",
        hide_env_values = true,
        global = true,
        hide_short_help = true
    )]
    pub tls_ca_password: Option<Secret>,
    /// What is asked of clients [default: required where --tls-ca-location is given, else none]
    #[arg(
        long,
        env = "ZEELOS_TLS_CLIENT_AUTH",
        value_enum,
        global = true,
        hide_short_help = true
    )]
    pub tls_client_auth: Option<ClientAuth>,
    /// The admin listener speaks TLS too
    #[arg(
        long,
        env = "ZEELOS_ADMIN_TLS",
        global = true,
        hide_short_help = true,
        action = clap::ArgAction::SetTrue
    )]
    pub admin_tls: bool,
}

impl ListenerTlsArgs {
    /// The listeners' TLS; `None` where no file was named.
    ///
    /// # Errors
    /// When the files can't be used.
    pub fn open(&self) -> Result<Option<ServerTls>, TlsError> {
        let files = TlsFiles {
            ca: self.tls_ca_location.clone(),
            ca_password: self.tls_ca_password.clone(),
            certificate: self.tls_certificate_location.clone(),
            key: self.tls_key_location.clone(),
            keystore: self.tls_keystore_location.clone(),
            password: self.tls_password.clone(),
        };
        let auth = self.tls_client_auth.unwrap_or(match files.ca {
            Some(_) => ClientAuth::Required,
            None => ClientAuth::None,
        });
        if files.is_empty() && auth == ClientAuth::None {
            if self.admin_tls {
                return Err(TlsError::Incomplete(
                    "--admin-tls needs a certificate: --tls-certificate-location and --tls-key-location, or --tls-keystore-location",
                ));
            }
            return Ok(None);
        }
        ServerTls::open(files, auth).map(Some)
    }
}

/// What the options of a client's TLS come to, whatever they are called ([`crate::client_tls_args`]).
pub trait ClientFiles {
    /// The files named.
    fn tls_files(&self) -> TlsFiles;
}

/// Declares the options of one client's TLS: `client_tls_args!(InfluxTlsArgs, "influx", "INFLUX", "InfluxDB")` makes a
/// struct for `#[command(flatten)]` with `--influx-ssl-ca-location` (`INFLUX_SSL_CA_LOCATION`), `…-certificate-location`,
/// `…-key-location`, `…-keystore-location`, `…-password` and `…-ca-password`.
#[macro_export]
macro_rules! client_tls_args {
    ($name:ident, $flag:literal, $variable:literal, $what:literal) => {
        #[doc = concat!("TLS of connections to ", $what, ".")]
        #[derive(::clap::Args, Clone, Debug, Default)]
        #[command(next_help_heading = concat!("TLS to ", $what))]
        pub struct $name {
            /// The CA that the server's certificate comes from (PEM, or a PKCS#12 truststore) [default: the system's]
            #[arg(id = concat!($flag, "-ssl-ca-location"), long = concat!($flag, "-ssl-ca-location"), env = concat!($variable, "_SSL_CA_LOCATION"), value_name = "FILE", hide_short_help = true)]
            pub ca: Option<::std::path::PathBuf>,
            /// The password of a PKCS#12 truststore
            #[arg(id = concat!($flag, "-ssl-ca-password"), long = concat!($flag, "-ssl-ca-password"), env = concat!($variable, "_SSL_CA_PASSWORD"), value_name = "PASSWORD", hide_env_values = true, hide_short_help = true)]
            pub ca_password: Option<$crate::Secret>,
            /// Our certificate (PEM)
            #[arg(id = concat!($flag, "-ssl-certificate-location"), long = concat!($flag, "-ssl-certificate-location"), env = concat!($variable, "_SSL_CERTIFICATE_LOCATION"), value_name = "FILE", hide_short_help = true)]
            pub certificate: Option<::std::path::PathBuf>,
            /// Its private key (PEM)
            #[arg(id = concat!($flag, "-ssl-key-location"), long = concat!($flag, "-ssl-key-location"), env = concat!($variable, "_SSL_KEY_LOCATION"), value_name = "FILE", hide_short_help = true)]
            pub key: Option<::std::path::PathBuf>,
            /// Certificate and key in one file (PKCS#12 or PEM), in place of the two
            #[arg(id = concat!($flag, "-ssl-keystore-location"), long = concat!($flag, "-ssl-keystore-location"), env = concat!($variable, "_SSL_KEYSTORE_LOCATION"), value_name = "FILE", hide_short_help = true)]
            pub keystore: Option<::std::path::PathBuf>,
            /// The password of the keystore or the key
            #[arg(id = concat!($flag, "-ssl-password"), long = concat!($flag, "-ssl-password"), env = concat!($variable, "_SSL_PASSWORD"), value_name = "PASSWORD", hide_env_values = true, hide_short_help = true)]
            pub password: Option<$crate::Secret>,
        }

        impl $crate::tls::ClientFiles for $name {
            fn tls_files(&self) -> $crate::tls::TlsFiles {
                $crate::tls::TlsFiles {
                    ca: self.ca.clone(),
                    ca_password: self.ca_password.clone(),
                    certificate: self.certificate.clone(),
                    key: self.key.clone(),
                    keystore: self.keystore.clone(),
                    password: self.password.clone(),
                }
            }
        }
    };
}
