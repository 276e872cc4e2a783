//! `cargo xtask bench`: what the monitor costs, as ratios measured in one run.
//!
//! Not a test: it judges nothing. Every figure is printed beside its target. Conditions take turns within each round
//! and a figure is the median of the rounds' ratios, because the machine's speed drifts; within a round the best of
//! many blocks counts, because noise only adds.

mod daemon;
mod decide;
mod events;
mod files;
mod names;
mod operations;
mod profiles;
mod report;
mod rounds;
mod storm;

use anyhow::Result;

use crate::operations::Operation;

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|a| a != "--bench").collect();
    if let [first, rest @ ..] = arguments.as_slice()
        && first == operations::WORKER
    {
        return operations::work(rest);
    }
    if arguments.first().is_some_and(|a| a == events::FLOODER) {
        return events::flood();
    }
    if let [first, directory] = arguments.as_slice()
        && first == storm::STORMER
    {
        return storm::storm(directory.as_ref());
    }
    if let [first, rest @ ..] = arguments.as_slice()
        && first == names::ASKER
    {
        return names::ask(rest);
    }
    let (numbers, arguments): (Vec<_>, Vec<_>) =
        arguments.into_iter().partition(|argument| argument.starts_with("rounds="));
    let rounds = match numbers.first().and_then(|number| number.strip_prefix("rounds=")) {
        Some(number) => number.parse()?,
        None => rounds::ROUNDS,
    };
    let wanted = |name: &str| arguments.is_empty() || arguments.iter().any(|a| name.contains(a.as_str()));
    let mut report = report::Report::default();
    let operations: Vec<Operation> = Operation::ALL
        .into_iter()
        .filter(|operation| {
            wanted("operations") || arguments.iter().any(|a| operation.name().contains(a.as_str()))
        })
        .collect();
    if !operations.is_empty() {
        rounds::run(&mut report, &operations, rounds)?;
    }
    if wanted("decide") {
        decide::run(&mut report)?;
    }
    if wanted("files") {
        files::run(&mut report)?;
    }
    if wanted("profiles") {
        profiles::run(&mut report)?;
    }
    if wanted("events") {
        events::run(&mut report)?;
    }
    if wanted("names") {
        names::run(&mut report)?;
    }
    if wanted("storm") {
        storm::run(&mut report)?;
    }
    report.print();
    Ok(())
}
