//! The table: figure, target, and whether it was met.

/// One figure.
struct Row {
    name: String,
    figure: f64,
    unit: &'static str,
    /// The figure must not exceed it; `None`: for information.
    target: Option<f64>,
    note: String,
}

/// What was measured.
#[derive(Default)]
pub struct Report {
    rows: Vec<Row>,
}

impl Report {
    /// Adds a figure that must be at most `target`.
    pub fn at_most(
        &mut self,
        name: impl Into<String>,
        figure: f64,
        unit: &'static str,
        target: f64,
        note: String,
    ) {
        self.push(name.into(), figure, unit, Some(target), note);
    }

    /// Adds a figure that has no target.
    pub fn info(&mut self, name: impl Into<String>, figure: f64, unit: &'static str, note: String) {
        self.push(name.into(), figure, unit, None, note);
    }

    fn push(&mut self, name: String, figure: f64, unit: &'static str, target: Option<f64>, note: String) {
        let row = Row { name, figure, unit, target, note };
        eprintln!("  {}", line(&row));
        self.rows.push(row);
    }

    /// Prints the table, and the missed targets once more at its end.
    pub fn print(&self) {
        println!("{:<44} {:>12} {:>10}  {:<6} note", "figure", "measured", "target", "");
        for row in &self.rows {
            println!("{}", line(row));
        }
        let missed: Vec<&str> = self.rows.iter().filter(|r| !met(r)).map(|r| r.name.as_str()).collect();
        let targets = self.rows.iter().filter(|r| r.target.is_some()).count();
        println!("{} of {targets} targets met", targets - missed.len());
        for name in missed {
            println!("not met: {name}");
        }
    }
}

fn met(row: &Row) -> bool {
    row.target.is_none_or(|t| row.figure <= t)
}

fn line(row: &Row) -> String {
    let target = row.target.map_or(String::new(), |t| format!("<= {t}"));
    let verdict = match (row.target, met(row)) {
        (None, _) => "",
        (_, true) => "met",
        (_, false) => "MISSED",
    };
    let figure = format!("{:.3}{}", row.figure, row.unit);
    format!("{:<44} {figure:>12} {target:>10}  {verdict:<6} {}", row.name, row.note)
}

/// The middle of some values, and of their lower and upper halves.
#[derive(Clone, Copy, Debug)]
pub struct Spread {
    pub lower: f64,
    pub middle: f64,
    pub upper: f64,
}

/// Median and quartiles; not a number for no values.
pub fn median(values: &mut [f64]) -> Spread {
    values.sort_by(f64::total_cmp);
    let at = |quarter: usize| values.get(values.len() * quarter / 4).copied().unwrap_or(f64::NAN);
    Spread { lower: at(1), middle: at(2), upper: at(3) }
}
