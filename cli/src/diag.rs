//! `trellis diag`: what a proxy knows, and why it would send a request where it would send it.

mod show;

use std::{
    io::{self, Write},
    process::ExitCode,
};

use anyhow::{Context, Result, bail};
use clap::Args;
use serde::{Serialize, de::DeserializeOwned};
use trellis_api::{
    access::line,
    diag::{self, Explanation},
};
use trellis_telemetry::http::Query;

use crate::proxies::{self, AdminUrl, Proxy};

#[derive(Debug, Args)]
pub struct DiagArgs {
    /// Whose proxy to ask, as pod/shop-0; of deploy/shop or gateway/front the first of its pods is asked.
    #[arg(required_unless_present = "proxy")]
    workload: Option<String>,
    /// The pod's namespace; without it, that of the kubeconfig.
    #[arg(short = 'n', long, conflicts_with = "proxy")]
    namespace: Option<String>,
    /// Explain what would become of a request there, as http://shop/cart. The request is not made.
    #[arg(long, value_name = "URL")]
    to: Option<String>,
    /// The method of that request.
    #[arg(long, requires = "to")]
    method: Option<String>,
    /// A header of that request, as NAME:VALUE. May be repeated.
    #[arg(long, value_name = "NAME:VALUE", requires = "to")]
    header: Vec<String>,
    /// Print the document as the proxy says it.
    #[arg(long)]
    json: bool,
    /// Ask a proxy directly at its admin port, as http://HOST:15000, and use no cluster.
    #[arg(long, value_name = "URL", conflicts_with = "workload")]
    proxy: Option<AdminUrl>,
}

impl DiagArgs {
    /// Fails where the request that is asked about would fail.
    pub async fn run(self) -> Result<ExitCode> {
        let proxy = self.chosen().await?;
        let mut out = io::stdout().lock();
        let Some(to) = &self.to else {
            let (document, text) = ask::<diag::Diag>(&proxy, "/diag").await?;
            match self.json {
                true => writeln!(out, "{text}")?,
                false => write!(out, "{}", show::knowledge(&document))?,
            }
            return Ok(ExitCode::SUCCESS);
        };
        let (explanation, text) = ask::<Explanation>(&proxy, &self.question(to)).await?;
        match self.json {
            true => writeln!(out, "{text}")?,
            false => write!(out, "{}", show::explanation(&explanation))?,
        }
        let fails =
            explanation.failure.is_some() || explanation.backends.iter().any(|one| one.failure.is_some());
        Ok(if fails { ExitCode::FAILURE } else { ExitCode::SUCCESS })
    }

    async fn chosen(&self) -> Result<Proxy> {
        let found = match (&self.proxy, &self.workload) {
            (Some(url), _) => proxies::of_urls(std::slice::from_ref(url)),
            (None, workload) => {
                let client = trellis_source::kubernetes_client().await?;
                let namespace =
                    self.namespace.clone().unwrap_or_else(|| client.default_namespace().to_owned());
                proxies::of_workload(&client, &namespace, workload.as_deref()).await?
            }
        };
        let others = found.len().saturating_sub(1);
        let Some(proxy) = found.into_iter().next() else { bail!("no proxy was found") };
        if others > 0 {
            writeln!(io::stderr(), "asking {}, one of {}; name a pod for another", proxy.name, others + 1)?;
        }
        Ok(proxy)
    }

    fn question(&self, to: &str) -> String {
        let mut question = format!("/explain?to={}", Query::encode(to));
        let method = self.method.iter().map(|method| ("method", method));
        for (name, value) in method.chain(self.header.iter().map(|header| ("header", header))) {
            question.push_str(&format!("&{name}={}", Query::encode(value)));
        }
        question
    }
}

/// The answer, read and in one line.
async fn ask<T: DeserializeOwned + Serialize>(proxy: &Proxy, question: &str) -> Result<(T, String)> {
    let body = proxy.ask(question).await.with_context(|| proxy.name.clone())?;
    let unreadable =
        "this version cannot read what the proxy says; compare `trellis version` with the proxy's";
    let document = serde_json::from_slice(&body).context(unreadable)?;
    let text = line(&document)?;
    Ok((document, text))
}
