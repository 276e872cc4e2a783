//! The blast radius as a picture: a ring of five sectors, each filled as far as an agent reaches, and what it reaches
//! beside it. An SVG by itself, or a page that holds it with the lists.

use std::f64::consts::PI;
use std::fmt::Write as _;

use super::{BlastRadius, Group};

const WIDTH: f64 = 940.0;
const HEIGHT: f64 = 560.0;
const MIDDLE: (f64, f64) = (280.0, 290.0);
const OUTER: f64 = 210.0;
const INNER: f64 = 62.0;

/// A sector: what it is of, how far it is filled, and how many of how many.
struct Sector {
    name: String,
    share: f64,
    count: String,
    colour: &'static str,
}

const COLOURS: [&str; 5] = ["#b3261e", "#c77700", "#7b3fa0", "#1f6f8b", "#3c6e47"];

fn sectors(radius: &BlastRadius) -> Vec<Sector> {
    let of_group = |group: &Group| {
        let all = group.in_reach.len() + group.out_of_reach.len();
        (group.name.to_owned(), group.share(), format!("{} of {all}", group.in_reach.len()))
    };
    let addresses = radius.network.zones.first().map_or(0, |zone| zone.tcp.addresses.max(zone.udp.addresses));
    let network = (
        "where it can connect to".to_owned(),
        radius.network.share(),
        format!("{} names, {} IPv4 addresses", radius.network.names.len(), grouped(addresses)),
    );
    let all = radius.groups.iter().map(of_group).chain([network]);
    all.zip(COLOURS).map(|((name, share, count), colour)| Sector { name, share, count, colour }).collect()
}

/// An SVG document.
#[must_use]
pub fn svg(radius: &BlastRadius) -> String {
    let sectors = sectors(radius);
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" \
         font-family=\"system-ui, sans-serif\">\n<title>Blast radius of {}</title>\n\
         <rect width=\"{WIDTH}\" height=\"{HEIGHT}\" fill=\"#fbfaf7\"/>\n",
        escape(&radius.profile)
    );
    let _ = writeln!(
        out,
        "<text x=\"30\" y=\"42\" font-size=\"22\" font-weight=\"600\" fill=\"#222\">Blast radius of {}</text>",
        escape(&radius.profile)
    );
    let each = 2.0 * PI / sectors.len().max(1) as f64;
    for (number, sector) in sectors.iter().enumerate() {
        // From the top, clockwise, with a gap between.
        let from = -PI / 2.0 + each * number as f64 + 0.02;
        let to = from + each - 0.04;
        let _ = writeln!(
            out,
            "<path d=\"{}\" fill=\"{}\" fill-opacity=\"0.13\"/>",
            wedge(from, to, OUTER),
            sector.colour
        );
        let reach = INNER + (OUTER - INNER) * sector.share.clamp(0.0, 1.0);
        if sector.share > 0.0 {
            let _ = writeln!(out, "<path d=\"{}\" fill=\"{}\"/>", wedge(from, to, reach), sector.colour);
        }
    }
    let _ = writeln!(
        out,
        "<circle cx=\"{}\" cy=\"{}\" r=\"{}\" fill=\"#fbfaf7\"/>",
        MIDDLE.0,
        MIDDLE.1,
        INNER - 6.0
    );
    let _ = writeln!(
        out,
        "<text x=\"{0}\" y=\"{1}\" font-size=\"40\" font-weight=\"700\" text-anchor=\"middle\" fill=\"#222\">{2}</text>\n\
         <text x=\"{0}\" y=\"{3}\" font-size=\"12\" text-anchor=\"middle\" fill=\"#555\">of 100</text>",
        MIDDLE.0,
        MIDDLE.1 + 8.0,
        radius.score,
        MIDDLE.1 + 28.0
    );
    let mut y = 110.0;
    for sector in &sectors {
        let _ = writeln!(
            out,
            "<rect x=\"530\" y=\"{}\" width=\"14\" height=\"14\" rx=\"2\" fill=\"{}\"/>\n\
             <text x=\"554\" y=\"{y}\" font-size=\"15\" font-weight=\"600\" fill=\"#222\">{}</text>\n\
             <text x=\"554\" y=\"{}\" font-size=\"13\" fill=\"#555\">{} in reach</text>",
            y - 12.0,
            sector.colour,
            escape(&sector.name),
            y + 19.0,
            escape(&sector.count)
        );
        y += 62.0;
    }
    let mode = if radius.enforced() {
        "The filled part is what a compromised agent reaches; the pale part does not exist for it.".to_owned()
    } else {
        format!("In mode {} nothing is denied: this is what enforcing it would leave.", radius.mode)
    };
    let _ = writeln!(
        out,
        "<text x=\"30\" y=\"{}\" font-size=\"13\" fill=\"#555\">{}</text>\n</svg>",
        HEIGHT - 24.0,
        escape(&mode)
    );
    out
}

/// A wedge of the ring between two angles, from the inner circle to `outer`.
fn wedge(from: f64, to: f64, outer: f64) -> String {
    let at = |angle: f64, distance: f64| {
        format!("{:.1} {:.1}", MIDDLE.0 + distance * angle.cos(), MIDDLE.1 + distance * angle.sin())
    };
    let large = u8::from(to - from > PI);
    format!(
        "M {} A {INNER} {INNER} 0 {large} 1 {} L {} A {outer:.1} {outer:.1} 0 {large} 0 {} Z",
        at(from, INNER),
        at(to, INNER),
        at(to, outer),
        at(from, outer)
    )
}

/// A page by itself.
#[must_use]
pub fn html(radius: &BlastRadius) -> String {
    let mut out = format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>Blast radius of {0}</title>\n<style>\n\
         body {{ font: 15px/1.5 system-ui, sans-serif; color: #222; background: #fbfaf7; max-width: 60rem; margin: 2rem auto; padding: 0 1rem }}\n\
         table {{ border-collapse: collapse; width: 100%; margin: 0 0 2rem }} td, th {{ text-align: left; padding: .3rem .6rem; border-bottom: 1px solid #ddd; vertical-align: top }}\n\
         code {{ font-size: .9em }} .out {{ color: #777 }}\n</style></head><body>\n",
        escape(&radius.profile)
    );
    out.push_str(&svg(radius));
    for group in &radius.groups {
        let _ = writeln!(
            out,
            "<h2>{}</h2><table><tr><th>In reach</th><th>For example</th><th>By</th><th>Technique</th></tr>",
            escape(group.name)
        );
        for one in &group.in_reach {
            let by =
                if one.programs.is_empty() { "every program".to_owned() } else { one.programs.join(", ") };
            let _ = writeln!(
                out,
                "<tr><td>{}</td><td><code>{}</code></td><td>{}</td><td>{}</td></tr>",
                escape(one.name),
                escape(&one.request),
                escape(&by),
                one.technique
            );
        }
        let _ = writeln!(
            out,
            "<tr class=\"out\"><td colspan=\"4\">Out of reach: {}</td></tr></table>",
            escape(&group.out_of_reach.join(", "))
        );
    }
    out.push_str("<h2>where it can connect to</h2><table><tr><th>IPv4</th><th>TCP addresses</th><th>TCP destinations</th><th>UDP destinations</th></tr>\n");
    for zone in &radius.network.zones {
        let _ = writeln!(
            out,
            "<tr><td>{}</td><td>{}</td><td>{}</td><td>{}</td></tr>",
            escape(zone.name),
            grouped(zone.tcp.addresses),
            grouped(zone.tcp.destinations),
            grouped(zone.udp.destinations)
        );
    }
    let _ = writeln!(out, "</table><p>Names: {}</p>", escape(&radius.network.names.join(", ")));
    out.push_str("<h2>limits that only cost effort</h2><table><tr><th>Rule</th><th>Way round</th></tr>\n");
    for limit in radius.limits.iter().filter(|limit| limit.way_round.is_some()) {
        let way = limit.way_round.as_deref().unwrap_or_default();
        let _ = writeln!(
            out,
            "<tr><td><code>{}</code> ({})</td><td>{}</td></tr>",
            escape(&limit.rule),
            escape(&limit.source),
            escape(way)
        );
    }
    out.push_str("</table></body></html>\n");
    out
}

/// `4 294 967 296`.
pub(super) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            out.push(' ');
        }
        out.push(digit);
    }
    out
}

/// Text in XML and HTML.
fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            c => out.push(c),
        }
    }
    out
}
