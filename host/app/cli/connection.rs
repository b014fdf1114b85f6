//! How to reach the broker: flags over environment over saved context, as NATS users expect.

use std::fmt;
use std::path::PathBuf;

use clap::Args;
use pelton_broker::{Broker, ConnectOptions, Tls, load_context};

use super::failure::Failure;

/// Where the broker is and who we are.
#[derive(Clone, Default, Args)]
#[command(next_help_heading = "Broker")]
pub(crate) struct ConnectionArgs {
    /// Servers of one cluster, separated by commas [default: nats://127.0.0.1:4222]. Credentials in an address, as in
    /// nats://USER:PASSWORD@HOST or nats://TOKEN@HOST, win over --user, --password, --token and --nkey
    #[arg(short, long, value_name = "URL", env = "NATS_URL", hide_env_values = true)]
    server: Vec<String>,
    /// Saved context of the `nats` tool; without it and without --server, the selected one
    #[arg(long, value_name = "NAME", env = "NATS_CONTEXT", hide_env_values = true)]
    context: Option<String>,
    /// Credentials file
    #[arg(long, value_name = "FILE", env = "NATS_CREDS", hide_env_values = true)]
    creds: Option<PathBuf>,
    /// File with an nkey seed
    #[arg(long, value_name = "FILE", env = "NATS_NKEY", hide_env_values = true)]
    nkey: Option<String>,
    /// User, with --password
    #[arg(long, value_name = "NAME", env = "NATS_USER", hide_env_values = true)]
    user: Option<String>,
    /// Password of --user; other users of the machine see arguments, but not variables
    #[arg(long, value_name = "SECRET", env = "NATS_PASSWORD", hide_env_values = true)]
    password: Option<String>,
    /// Token instead of user and password
    #[arg(long, value_name = "SECRET", env = "NATS_TOKEN", hide_env_values = true)]
    token: Option<String>,
    /// Certificate authority of the server
    #[arg(long, value_name = "FILE", env = "NATS_CA", hide_env_values = true)]
    tls_ca: Option<PathBuf>,
    /// Client certificate
    #[arg(long, value_name = "FILE", env = "NATS_CERT", hide_env_values = true, requires = "tls_key")]
    tls_cert: Option<PathBuf>,
    /// Key of the client certificate
    #[arg(long, value_name = "FILE", env = "NATS_KEY", hide_env_values = true, requires = "tls_cert")]
    tls_key: Option<PathBuf>,
    /// JetStream domain
    #[arg(long, value_name = "NAME", env = "NATS_JS_DOMAIN", hide_env_values = true)]
    domain: Option<String>,
    /// Where answers come: the beginning of a subject that the user may subscribe to [default: _INBOX]
    #[arg(long, value_name = "PREFIX", env = "NATS_INBOX_PREFIX", hide_env_values = true)]
    inbox_prefix: Option<String>,
}

/// Nothing of it: any of the values may be a secret.
impl fmt::Debug for ConnectionArgs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConnectionArgs").finish_non_exhaustive()
    }
}

impl ConnectionArgs {
    /// The options of the connection, with addresses that hold no credentials; reads the saved context.
    ///
    /// A server named without a context gets no credentials of a context: they might belong to another one.
    pub(crate) fn options(&self) -> Result<ConnectOptions, Failure> {
        let saved = match &self.context {
            Some(name) => load_context(Some(name))?,
            None if self.server.is_empty() => load_context(None)?,
            None => None,
        };
        let saved = saved.unwrap_or_default();
        let given: Vec<String> = self.server.iter().filter(|url| !url.is_empty()).cloned().collect();
        let servers = if given.is_empty() { saved.servers } else { given };
        let options = ConnectOptions {
            servers,
            creds: self.creds.clone().or(saved.creds),
            nkey: self.nkey.clone().or(saved.nkey),
            user: self.user.clone().or(saved.user),
            password: self.password.clone().or(saved.password),
            token: self.token.clone().or(saved.token),
            tls: Tls {
                ca: self.tls_ca.clone().or(saved.tls.ca),
                cert: self.tls_cert.clone().or(saved.tls.cert),
                key: self.tls_key.clone().or(saved.tls.key),
            },
            domain: self.domain.clone().or(saved.domain),
            inbox_prefix: self.inbox_prefix.clone().or(saved.inbox_prefix),
            name: Some("pelton".to_owned()),
        };
        Ok(options.take_credentials()?)
    }

    /// Connects.
    pub(crate) async fn connect(&self) -> Result<Broker, Failure> {
        Ok(Broker::connect(&self.options()?).await?)
    }
}
