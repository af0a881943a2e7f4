//! Medians and ratios, as tables and as comma-separated values.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::Write;

use tabled::builder::Builder;
use tabled::settings::Style;

use crate::meter::Row;

/// What came out for one workload on one place in one round.
#[derive(Clone, Copy, Debug, Default)]
struct Figure {
    value: f64,
    cpu_each: Option<f64>,
    requests_each: Option<f64>,
}

/// All figures by workload (in the order they came in), place and round.
pub(crate) struct Report {
    workloads: Vec<(String, &'static str)>,
    places: Vec<String>,
    figures: BTreeMap<(usize, usize, usize), Figure>,
    /// Most memory of a place's daemons so far, in MiB.
    peak_memory: BTreeMap<usize, f64>,
}

/// One workload's speeds, for tables and plots.
pub(crate) struct Line<'a> {
    pub(crate) workload: &'a str,
    pub(crate) unit: &'static str,
    /// Median of each place.
    pub(crate) medians: Vec<f64>,
    /// For each other place, ours to it in each round.
    pub(crate) ratios: Vec<Vec<f64>>,
}

impl Report {
    /// Of these places. The first is ours.
    pub(crate) fn new(places: Vec<String>) -> Report {
        Report { workloads: Vec::new(), places, figures: BTreeMap::new(), peak_memory: BTreeMap::new() }
    }

    /// The places, ours first.
    pub(crate) fn places(&self) -> &[String] {
        &self.places
    }

    /// Adds one round of one place.
    pub(crate) fn add(&mut self, place: &str, round: usize, rows: Vec<Row>) {
        for row in rows {
            let workload = position(&mut self.workloads, (row.workload.clone(), row.amount.unit()));
            let place = position(&mut self.places, place.to_owned());
            let figure = Figure { value: row.speed(), cpu_each: row.cpu_each(), requests_each: row.requests_each() };
            self.figures.insert((workload, place, round), figure);
        }
    }

    /// Adds what a place's daemons have had in memory at most, if it is known.
    pub(crate) fn add_peak_memory(&mut self, place: &str, mib: Option<f64>) {
        let place = position(&mut self.places, place.to_owned());
        if let Some(mib) = mib {
            let peak = self.peak_memory.entry(place).or_default();
            *peak = peak.max(mib);
        }
    }

    /// The speeds of each workload.
    pub(crate) fn lines(&self) -> impl Iterator<Item = Line<'_>> {
        self.workloads.iter().enumerate().map(|(at, (workload, unit))| Line {
            workload,
            unit,
            medians: (0..self.places.len())
                .map(|place| median(&self.of_rounds(at, place, |figure| Some(figure.value))))
                .collect(),
            ratios: (1..self.places.len()).map(|place| self.ratios(at, place)).collect(),
        })
    }

    /// Ours to theirs, of each round in which both are known.
    fn ratios(&self, workload: usize, place: usize) -> Vec<f64> {
        let theirs = self.figures.range((workload, place, 0)..=(workload, place, usize::MAX));
        let ratio = |(&(_, _, round), theirs): (&(usize, usize, usize), &Figure)| {
            Some(self.figures.get(&(workload, 0, round))?.value / theirs.value)
        };
        theirs.filter_map(ratio).collect()
    }

    fn of_rounds(&self, workload: usize, place: usize, of: impl Fn(&Figure) -> Option<f64>) -> Vec<f64> {
        let figures = self.figures.range((workload, place, 0)..=(workload, place, usize::MAX));
        figures.filter_map(|(_, figure)| of(figure)).collect()
    }

    /// The figures of every round.
    pub(crate) fn csv(&self) -> String {
        let mut text = "workload,unit,place,round,value,ours to it,cpu ms each,master requests each\n".to_owned();
        let shown = |value: Option<f64>| value.map_or(String::new(), |value| format!("{value:.4}"));
        for (&(workload, place, round), figure) in &self.figures {
            let (name, unit) = &self.workloads[workload];
            let ours = self.figures.get(&(workload, 0, round)).map(|ours| ours.value / figure.value);
            let (ours, cpu, requests) = (shown(ours), shown(figure.cpu_each), shown(figure.requests_each));
            let value = figure.value;
            // A String takes everything.
            let _ =
                writeln!(text, "\"{name}\",{unit},{},{round},{value:.1},{ours},{cpu},{requests}", self.places[place]);
        }
        text
    }

    /// Prints the tables: speeds with ratios, then what they cost.
    pub(crate) fn print(&self) -> anyhow::Result<()> {
        let mut out = std::io::stdout().lock();
        writeln!(out, "{}\n", self.speeds())?;
        writeln!(
            out,
            "CPU of all daemons and the mount: ms for each operation, s for each GB. Requests to the master for each operation or MB.\n"
        )?;
        writeln!(out, "{}", self.costs())?;
        for (place, mib) in &self.peak_memory {
            writeln!(out, "Most memory of all daemons and the mount, {}: {mib:.0} MiB", self.places[*place])?;
        }
        Ok(())
    }

    fn speeds(&self) -> String {
        let mut builder = Builder::default();
        let mut head = vec!["workload".to_owned(), "unit".to_owned()];
        head.extend(self.places.iter().cloned());
        head.extend(self.places.iter().skip(1).map(|place| format!("ours to {place} (least to most)")));
        builder.push_record(head);
        for line in self.lines() {
            let mut row = vec![line.workload.to_owned(), line.unit.to_owned()];
            row.extend(line.medians.iter().map(|value| format!("{value:.0}")));
            row.extend(line.ratios.iter().map(|ratios| spread(ratios)));
            builder.push_record(row);
        }
        builder.build().with(Style::markdown()).to_string()
    }

    fn costs(&self) -> String {
        let mut builder = Builder::default();
        let mut head = vec!["workload".to_owned()];
        head.extend(self.places.iter().map(|place| format!("CPU, {place}")));
        head.extend(self.places.iter().map(|place| format!("requests, {place}")));
        builder.push_record(head);
        for (at, (name, _)) in self.workloads.iter().enumerate() {
            let mut row = vec![name.clone()];
            for of in [|figure: &Figure| figure.cpu_each, |figure: &Figure| figure.requests_each] {
                row.extend((0..self.places.len()).map(|place| known(median(&self.of_rounds(at, place, of)))));
            }
            builder.push_record(row);
        }
        builder.build().with(Style::markdown()).to_string()
    }
}

fn position<T: PartialEq>(list: &mut Vec<T>, item: T) -> usize {
    list.iter().position(|other| *other == item).unwrap_or_else(|| {
        list.push(item);
        list.len() - 1
    })
}

fn known(value: f64) -> String {
    if value.is_nan() { "-".to_owned() } else { format!("{value:.3}") }
}

fn spread(ratios: &[f64]) -> String {
    let (least, most) =
        (ratios.iter().copied().fold(f64::NAN, f64::min), ratios.iter().copied().fold(f64::NAN, f64::max));
    format!("{:.2} ({least:.2} to {most:.2})", median(ratios))
}

/// The middle one, or the middle of the middle two.
pub(crate) fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    match sorted.len() {
        0 => f64::NAN,
        count if count % 2 == 1 => sorted[count / 2],
        count => f64::midpoint(sorted[count / 2 - 1], sorted[count / 2]),
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::meter::Amount;

    /// One workload, twice and four times as fast as the other place.
    pub(crate) fn sample() -> Report {
        let mut report = Report::new(vec!["rfs".into(), "other".into()]);
        let row = |seconds| Row {
            workload: "a & b".into(),
            amount: Amount::Operations(100),
            seconds,
            cpu_seconds: Some(0.1),
            master_requests: None,
        };
        for (round, (ours, theirs)) in [(1.0, 2.0), (1.0, 4.0)].into_iter().enumerate() {
            report.add("other", round, vec![row(theirs)]);
            report.add("rfs", round, vec![row(ours)]);
        }
        report
    }

    #[test]
    fn the_median_is_the_middle() {
        assert!((median(&[3.0, 1.0, 2.0]) - 2.0).abs() < 1e-9);
        assert!((median(&[4.0, 1.0]) - 2.5).abs() < 1e-9);
        assert!(median(&[]).is_nan());
    }

    #[test]
    fn ratios_are_taken_round_by_round() {
        let report = sample();
        let line = report.lines().next().expect("a workload");
        assert_eq!(line.ratios, [[2.0, 4.0]]);
        assert!((line.medians[0] - 100.0).abs() < 1e-9 && (line.medians[1] - 37.5).abs() < 1e-9);
        assert!(report.speeds().contains("3.00 (2.00 to 4.00)"), "{}", report.speeds());
        assert!(report.csv().contains("\"a & b\",per s,other,1,25.0,4.0000,1.0000,\n"), "{}", report.csv());
        assert!(report.costs().contains("1.000"), "{}", report.costs());
    }
}
