//! As much of HTTP/1.1 as agents' clients use: bodies with a length or in chunks, connections that stay.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

/// An agent's request is its whole conversation, with what it says of its tools.
const LONGEST: usize = 64 << 20;

pub struct Request {
    pub method: String,
    pub path: String,
    /// Null where it is no JSON.
    pub body: Value,
}

pub struct Answer {
    pub kind: &'static str,
    pub body: String,
}

impl Answer {
    pub fn json(value: &Value) -> Answer {
        Answer { kind: "application/json", body: value.to_string() }
    }
}

/// Answers until the client goes.
pub fn serve(stream: TcpStream, mut answer: impl FnMut(&Request) -> Answer) -> Result<()> {
    stream.set_read_timeout(Some(Duration::from_secs(600)))?;
    let mut out = stream.try_clone()?;
    let mut reader = BufReader::new(stream);
    while let Some(request) = read(&mut reader, &mut out)? {
        let Answer { kind, body } = answer(&request);
        let length = body.len();
        let shown = if request.method == "HEAD" { "" } else { body.as_str() };
        write!(out, "HTTP/1.1 200 OK\r\ncontent-type: {kind}\r\ncontent-length: {length}\r\n\r\n{shown}")?;
        out.flush()?;
    }
    Ok(())
}

fn read(reader: &mut impl BufRead, out: &mut impl Write) -> Result<Option<Request>> {
    let first = line(reader)?;
    if first.is_empty() {
        return Ok(None);
    }
    let mut words = first.split(' ');
    let (method, path) = (words.next().unwrap_or_default(), words.next().context("no path")?);
    let (mut length, mut chunked) = (0, false);
    loop {
        let header = line(reader)?;
        let Some((name, value)) = header.split_once(':') else { break };
        let value = value.trim();
        match name.to_ascii_lowercase().as_str() {
            "content-length" => length = value.parse().context("content-length")?,
            "transfer-encoding" => chunked = value.eq_ignore_ascii_case("chunked"),
            "expect" => out.write_all(b"HTTP/1.1 100 Continue\r\n\r\n")?,
            "content-encoding" if value != "identity" => bail!("a body in {value}"),
            "upgrade" => bail!("an upgrade to {value}"),
            _ => {}
        }
    }
    let mut body = Vec::new();
    if chunked {
        loop {
            let size = line(reader)?;
            let size = usize::from_str_radix(size.split(';').next().unwrap_or_default(), 16)?;
            take(reader, size, &mut body)?;
            line(reader)?;
            if size == 0 {
                break;
            }
        }
    } else {
        take(reader, length, &mut body)?;
    }
    let body = serde_json::from_slice(&body).unwrap_or_default();
    Ok(Some(Request { method: method.to_owned(), path: path.to_owned(), body }))
}

fn take(reader: &mut impl BufRead, length: usize, body: &mut Vec<u8>) -> Result<()> {
    ensure!(body.len().saturating_add(length) <= LONGEST, "a body of more than {LONGEST} bytes");
    let start = body.len();
    body.resize(start + length, 0);
    Ok(reader.read_exact(&mut body[start..])?)
}

/// Without its end; empty where the client is gone.
fn line(reader: &mut impl BufRead) -> Result<String> {
    let mut line = String::new();
    reader.take(64 << 10).read_line(&mut line)?;
    line.truncate(line.trim_end().len());
    Ok(line)
}
