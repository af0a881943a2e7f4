//! Medians and ratios, as a table or as comma-separated values.

use std::collections::BTreeMap;
use std::io::Write;

use tabled::builder::Builder;
use tabled::settings::Style;

use crate::daemons::Usage;
use crate::workloads::Figure;

/// All figures by workload (in the order they came in) and place.
#[derive(Default)]
pub(crate) struct Report {
    workloads: Vec<(String, &'static str)>,
    places: Vec<String>,
    figures: BTreeMap<(usize, usize), Vec<f64>>,
}

impl Report {
    /// Adds one round's figure of one place.
    pub(crate) fn add(&mut self, place: &str, figure: &Figure) {
        self.note(&figure.workload, figure.unit, place, figure.value);
    }

    /// Adds what a place's daemons have used in one round; nothing if none are known.
    pub(crate) fn add_usage(&mut self, place: &str, before: Usage, after: Usage) {
        if after.memory_mib > 0.0 {
            self.note("CPU of all daemons", "s", place, after.cpu_seconds - before.cpu_seconds);
            self.note("peak memory of all daemons", "MiB", place, after.memory_mib);
        }
    }

    fn note(&mut self, workload: &str, unit: &'static str, place: &str, value: f64) {
        let workload = position(&mut self.workloads, (workload.to_owned(), unit));
        let place = position(&mut self.places, place.to_owned());
        self.figures.entry((workload, place)).or_default().push(value);
    }

    /// Prints it. The first place is ours; ratios are ours to each other one.
    pub(crate) fn print(&self, csv: bool) -> anyhow::Result<()> {
        let mut out = std::io::stdout().lock();
        if csv {
            writeln!(out, "workload,unit,place,round,value,ours to it")?;
            for ((workload, place), values) in &self.figures {
                for (round, value) in values.iter().enumerate() {
                    let (name, unit) = &self.workloads[*workload];
                    let ours = self.figures.get(&(*workload, 0)).and_then(|ours| ours.get(round));
                    let ratio = ours.map_or(f64::NAN, |ours| ours / value);
                    writeln!(out, "\"{name}\",{unit},\"{}\",{round},{value:.1},{ratio:.2}", self.places[*place])?;
                }
            }
            return Ok(());
        }
        let mut builder = Builder::default();
        let mut head = vec!["workload".to_owned(), "unit".to_owned()];
        head.extend(self.places.iter().cloned());
        head.extend(self.places.iter().skip(1).map(|place| format!("ratio to {place}")));
        builder.push_record(head);
        for (at, (name, unit)) in self.workloads.iter().enumerate() {
            let values = |place: usize| self.figures.get(&(at, place)).map_or(&[][..], Vec::as_slice);
            let mut row = vec![name.clone(), (*unit).to_owned()];
            row.extend((0..self.places.len()).map(|place| format!("{:.0}", median(values(place)))));
            row.extend((1..self.places.len()).map(|place| format!("{:.2}", ratio(values(0), values(place)))));
            builder.push_record(row);
        }
        let mut table = builder.build();
        writeln!(out, "{}", table.with(Style::markdown()))?;
        Ok(())
    }
}

fn position<T: PartialEq>(list: &mut Vec<T>, item: T) -> usize {
    list.iter().position(|other| *other == item).unwrap_or_else(|| {
        list.push(item);
        list.len() - 1
    })
}

/// Median of the ratios of each round.
fn ratio(ours: &[f64], theirs: &[f64]) -> f64 {
    median(&ours.iter().zip(theirs).map(|(ours, theirs)| ours / theirs).collect::<Vec<_>>())
}

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    match sorted.len() {
        0 => f64::NAN,
        count if count % 2 == 1 => sorted[count / 2],
        count => f64::midpoint(sorted[count / 2 - 1], sorted[count / 2]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_middle() {
        assert!((median(&[3.0, 1.0, 2.0]) - 2.0).abs() < 1e-9);
        assert!((median(&[4.0, 1.0]) - 2.5).abs() < 1e-9);
        assert!((ratio(&[2.0, 8.0], &[1.0, 2.0]) - 3.0).abs() < 1e-9);
    }
}
