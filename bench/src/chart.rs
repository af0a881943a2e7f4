//! A page with plots: for each workload how many times as fast as each other place we are, every round a dot.
//!
//! Plain HTML with one SVG for each other place, readable without anything else, in the dark, too.

use std::fmt::Write as _;

use crate::report::{Line, Report, median};

const ROW_PIXELS: f64 = 22.0;
const LABEL_PIXELS: f64 = 330.0;
const PLOT_PIXELS: f64 = 520.0;
const FIGURE_PIXELS: f64 = 130.0;
const HEAD_PIXELS: f64 = 28.0;

/// The ends of the scale, which counts in powers of two: a quarter to 128 times.
const LEAST: f64 = 0.25;
const MOST: f64 = 128.0;

const STYLE: &str = "\
:root{color-scheme:light dark;--text:#222;--back:#fff;--grid:#ddd;--good:#2a7;--bad:#c43;--even:#888}\
@media(prefers-color-scheme:dark){:root{--text:#ddd;--back:#181a1b;--grid:#3a3d3f}}\
body{font:15px/1.4 system-ui,sans-serif;color:var(--text);background:var(--back);margin:1.5em auto;max-width:1000px;padding:0 1em}\
div{overflow-x:auto}svg{min-width:760px;width:100%;height:auto}text{fill:var(--text);font-size:13px}\
.grid{stroke:var(--grid)}.even{stroke:var(--even)}.good{fill:var(--good)}.bad{fill:var(--bad)}.round{fill:var(--text);opacity:.6}\
table{border-collapse:collapse}td,th{padding:.2em .7em;text-align:right;border-bottom:1px solid var(--grid)}td:first-child,th:first-child{text-align:left}";

/// The whole page.
pub(crate) fn page(report: &Report) -> String {
    let mut html = format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" content=\"width=device-width\">\
         <title>rfs: benchmark</title><style>{STYLE}</style></head><body>\n<h1>rfs: benchmark</h1>\n"
    );
    let (ours, others) = report.places().split_first().map_or(("", &[][..]), |(ours, others)| (ours.as_str(), others));
    for (at, other) in others.iter().enumerate() {
        let title = format!("{} beside {}", escaped(ours), escaped(other));
        // A String takes everything.
        let _ = write!(
            html,
            "<h2>{title}</h2>\n<p>How many times as fast; bars are medians, dots the rounds.</p>\n<div>{}</div>\n",
            plot(&report.lines().collect::<Vec<_>>(), at, &title)
        );
    }
    html.push_str(&table(report));
    html.push_str("</body></html>\n");
    html
}

fn plot(lines: &[Line<'_>], other: usize, title: &str) -> String {
    let (width, height) =
        (LABEL_PIXELS + PLOT_PIXELS + FIGURE_PIXELS, HEAD_PIXELS + ROW_PIXELS * lines.len() as f64 + 8.0);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width:.0} {height:.0}\" role=\"img\" aria-label=\"{title}\">"
    );
    let mut mark = LEAST;
    while mark <= MOST {
        let (x, class) = (place_of(mark), if mark == 1.0 { "even" } else { "grid" });
        let _ = write!(
            svg,
            "<line class=\"{class}\" x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{HEAD_PIXELS}\" y2=\"{height:.0}\"/>\
             <text x=\"{x:.1}\" y=\"18\" text-anchor=\"middle\">{mark}</text>"
        );
        mark *= 2.0;
    }
    for (at, line) in lines.iter().enumerate() {
        svg.push_str(&bar(line, &line.ratios[other], HEAD_PIXELS + ROW_PIXELS * at as f64));
    }
    svg.push_str("</svg>");
    svg
}

fn bar(line: &Line<'_>, ratios: &[f64], top: f64) -> String {
    let middle = median(ratios);
    if middle.is_nan() {
        return String::new();
    }
    let (even, end, base) = (place_of(1.0), place_of(middle), top + ROW_PIXELS * 0.72);
    let class = if middle >= 1.0 { "good" } else { "bad" };
    let mut svg = format!(
        "<text x=\"{:.0}\" y=\"{base:.1}\" text-anchor=\"end\">{}</text>\
         <rect class=\"{class}\" x=\"{:.1}\" y=\"{:.1}\" width=\"{:.1}\" height=\"{:.1}\"/>\
         <text x=\"{:.0}\" y=\"{base:.1}\">{middle:.2}</text>",
        LABEL_PIXELS - 8.0,
        escaped(line.workload),
        even.min(end),
        top + 5.0,
        (even - end).abs().max(1.0),
        ROW_PIXELS - 10.0,
        LABEL_PIXELS + PLOT_PIXELS + 14.0,
    );
    for ratio in ratios {
        let _ = write!(
            svg,
            "<circle class=\"round\" cx=\"{:.1}\" cy=\"{:.1}\" r=\"2.5\"/>",
            place_of(*ratio),
            top + ROW_PIXELS / 2.0
        );
    }
    svg
}

/// Where a ratio lies; what is beyond the scale lies at its end.
fn place_of(ratio: f64) -> f64 {
    let part = (ratio.clamp(LEAST, MOST) / LEAST).log2() / (MOST / LEAST).log2();
    LABEL_PIXELS + part * PLOT_PIXELS
}

fn table(report: &Report) -> String {
    let mut html = "<h2>Medians</h2>\n<div><table><tr><th>workload</th><th>unit</th>".to_owned();
    report.places().iter().for_each(|place| html.push_str(&format!("<th>{}</th>", escaped(place))));
    html.push_str("</tr>\n");
    for line in report.lines() {
        let _ = write!(html, "<tr><td>{}</td><td>{}</td>", escaped(line.workload), line.unit);
        line.medians.iter().for_each(|value| html.push_str(&format!("<td>{value:.0}</td>")));
        html.push_str("</tr>\n");
    }
    html.push_str("</table></div>\n");
    html
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::tests::sample;

    #[test]
    fn bars_begin_at_one_and_rounds_are_dots() {
        let page = page(&sample());
        assert_eq!(page.matches("<circle").count(), 2, "{page}");
        assert!(page.contains("a &amp; b") && page.contains("class=\"good\"") && !page.contains("class=\"bad\""));
        assert!(
            place_of(1.0) < place_of(3.0)
                && place_of(1e9) <= LABEL_PIXELS + PLOT_PIXELS
                && place_of(0.0) >= LABEL_PIXELS
        );
    }
}
