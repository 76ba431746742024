//! The command line.

use anyhow::{Context, Result, bail};

pub struct Arguments {
    pub url: String,
    pub listen: String,
    pub client_only: bool,
}

impl Arguments {
    pub fn from_env() -> Result<Self> {
        let mut found = Self {
            url: "sqlite://mail.db".to_owned(),
            listen: "127.0.0.1:0".to_owned(),
            client_only: false,
        };
        let mut arguments = std::env::args().skip(1);
        while let Some(argument) = arguments.next() {
            let mut value =
                || arguments.next().with_context(|| format!("{argument} needs a value"));
            match &*argument {
                "--url" => found.url = value()?,
                "--listen" => found.listen = value()?,
                "--client-only" => found.client_only = true,
                _ => bail!("{argument} is unknown; there are --url, --listen and --client-only"),
            }
        }
        Ok(found)
    }
}
