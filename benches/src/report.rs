//! What was measured, as a table or as lines of JSON.

use serde::Serialize;

use crate::target::Target;

#[derive(Debug, Default, Serialize)]
pub struct Measured {
    pub storage: String,
    pub scenario: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub value: Option<f64>,
    pub unit: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ratio: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub p50: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub p95: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub p99: Option<f64>,
    /// The longest, of calls that have names.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max: Option<f64>,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub call: String,
}

pub struct Report {
    storage: String,
    json: bool,
}

impl Report {
    pub fn new(target: &Target, json: bool) -> Self {
        if !json {
            println!(
                "{:<18}{:>12} {:<10}{:>12}{:>8}",
                "scenario", target.name, "", "limit", "ratio"
            );
        }
        Self { storage: target.name.clone(), json }
    }

    pub fn add(&mut self, measured: Measured) {
        let measured = Measured { storage: self.storage.clone(), ..measured };
        if self.json {
            println!("{}", serde_json::to_string(&measured).expect("plain data serialises"));
            return;
        }
        if let (Some(p50), Some(max)) = (measured.p50, measured.max) {
            println!(
                "{:<18}p50 {p50:>9.2} ms, max {max:>9.2} ms  {}",
                measured.scenario, measured.call
            );
            return;
        }
        let number = |value: Option<f64>| match value {
            Some(value) if value >= 100.0 => format!("{value:.0}"),
            Some(value) => format!("{value:.2}"),
            None => String::new(),
        };
        if let (Some(p50), Some(p95), Some(p99)) = (measured.p50, measured.p95, measured.p99) {
            println!("{:<18}p50 {p50:.2} ms, p95 {p95:.2} ms, p99 {p99:.2} ms", measured.scenario);
            return;
        }
        println!(
            "{:<18}{:>12} {:<10}{:>12}{:>8}",
            measured.scenario,
            number(measured.value),
            measured.unit,
            number(measured.limit),
            number(measured.ratio),
        );
    }

    pub fn end(&self) {
        if !self.json {
            println!("\nratio = value / limit, both of this run; rates are medians of the rounds");
        }
    }
}
