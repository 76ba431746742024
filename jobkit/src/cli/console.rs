//! The one place where something is written: cleaned of what could deceive a terminal.

use std::fmt;
use std::io::{self, BufRead, IsTerminal, Write};

use serde_json::Value;

/// Where output goes, and what it may look like.
pub(super) struct Console<'a> {
    out: Box<dyn Write + Send + 'a>,
    err: Box<dyn Write + Send + 'a>,
    /// Answers to questions; `None` where nobody can be asked.
    answers: Option<Box<dyn BufRead + Send + 'a>>,
    colour: bool,
    terminal: bool,
}

impl fmt::Debug for Console<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Console").finish_non_exhaustive()
    }
}

/// How a text is meant.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Tone {
    #[default]
    Plain,
    /// A heading.
    Head,
    /// Beside the point.
    Quiet,
    Good,
    Warning,
    Bad,
}

impl Tone {
    const fn code(self) -> &'static str {
        match self {
            Self::Plain => "",
            Self::Head => "1",
            Self::Quiet => "2",
            Self::Good => "32",
            Self::Warning => "33",
            Self::Bad => "31",
        }
    }
}

impl<'a> Console<'a> {
    /// The process's own streams.
    pub(super) fn standard() -> Self {
        let terminal = io::stdout().is_terminal();
        let set = |name| std::env::var_os(name).is_some_and(|value| !value.is_empty());
        let dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
        let asked = io::stdin().is_terminal() && io::stderr().is_terminal();
        Self {
            out: Box::new(io::BufWriter::new(io::stdout())),
            err: Box::new(io::stderr()),
            answers: asked.then(|| Box::new(io::BufReader::new(io::stdin())) as _),
            colour: terminal && !set("NO_COLOR") && !dumb,
            terminal,
        }
    }

    /// Streams without a terminal.
    pub(super) fn plain(out: &'a mut (dyn Write + Send), err: &'a mut (dyn Write + Send)) -> Self {
        Self {
            out: Box::new(out),
            err: Box::new(err),
            answers: None,
            colour: false,
            terminal: false,
        }
    }

    #[cfg(test)]
    pub(super) fn answering(mut self, answers: &'a [u8]) -> Self {
        self.answers = Some(Box::new(answers));
        self
    }

    #[cfg(test)]
    pub(super) fn coloured(mut self) -> Self {
        self.colour = true;
        self
    }

    pub(super) fn is_terminal(&self) -> bool {
        self.terminal
    }

    pub(super) fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }

    /// Columns and rows of the terminal; `COLUMNS` takes precedence, and without either nothing is cut.
    pub(super) fn size(&self) -> (usize, usize) {
        let columns = std::env::var("COLUMNS").ok().and_then(|text| text.parse().ok());
        let size = if self.terminal { terminal_size::terminal_size() } else { None };
        let (width, height) = size.map_or((usize::MAX, usize::MAX), |(width, height)| {
            (usize::from(width.0), usize::from(height.0))
        });
        (columns.filter(|it| *it >= 20).unwrap_or(width), height)
    }

    fn toned(&self, tone: Tone, text: &str) -> String {
        match (self.colour, tone.code()) {
            (false, _) | (_, "") => text.to_owned(),
            (true, code) => format!("\x1b[{code}m{text}\x1b[0m"),
        }
    }

    /// One line.
    pub(super) fn say(&mut self, line: &str) -> io::Result<()> {
        self.say_in(Tone::Plain, line)
    }

    /// One line in a tone.
    pub(super) fn say_in(&mut self, tone: Tone, line: &str) -> io::Result<()> {
        let line = self.toned(tone, &clean(line));
        writeln!(self.out, "{line}")
    }

    /// Several lines, each behind an indent that no text can escape.
    pub(super) fn block(&mut self, indent: &str, text: &str) -> io::Result<()> {
        text.lines().try_for_each(|line| writeln!(self.out, "{indent}{}", clean(line)))
    }

    /// Text that goes out as it is but for its characters, such as a line of CSV.
    pub(super) fn raw_line(&mut self, line: &str) -> io::Result<()> {
        writeln!(self.out, "{}", clean(line))
    }

    /// A text of this program's own with tabs and line ends, such as a script.
    pub(super) fn script(&mut self, text: &str) -> io::Result<()> {
        self.out.write_all(text.as_bytes())
    }

    /// Moves the cursor of a terminal. Never with data in it.
    pub(super) fn control(&mut self, sequence: &'static str) -> io::Result<()> {
        self.out.write_all(sequence.as_bytes())?;
        self.out.flush()
    }

    /// One JSON document.
    pub(super) fn json(&mut self, value: &Value) -> io::Result<()> {
        let text = format!("{value:#}");
        writeln!(self.out, "{}", escape_json(&text))
    }

    /// One JSON document on one line.
    pub(super) fn json_line(&mut self, value: &Value) -> io::Result<()> {
        writeln!(self.out, "{}", escape_json(&value.to_string()))
    }

    /// A table; its first line are the headings.
    pub(super) fn table(&mut self, table: &Table) -> io::Result<()> {
        let (width, _) = self.size();
        for (i, line) in table.lines(width).into_iter().enumerate() {
            let mut text = String::new();
            for (cell, tone) in line {
                let tone = if i == 0 { Tone::Quiet } else { tone };
                text += &self.toned(tone, &cell);
            }
            writeln!(self.out, "{}", text.trim_end())?;
        }
        Ok(())
    }

    /// A table on standard error.
    pub(super) fn tell_table(&mut self, table: &Table) -> io::Result<()> {
        let (width, _) = self.size();
        let lines = table.lines(width).into_iter();
        let line = |line: Vec<(String, Tone)>| line.into_iter().map(|(cell, _)| cell).collect();
        lines.map(line).try_for_each(|line: String| self.tell(&line))
    }

    /// One line on standard error.
    pub(super) fn tell(&mut self, line: &str) -> io::Result<()> {
        self.tell_block(line)
    }

    pub(super) fn tell_block(&mut self, text: &str) -> io::Result<()> {
        // It is told also where the output cannot be written: most often this is what it tells.
        let flushed = self.out.flush();
        text.lines().try_for_each(|line| writeln!(self.err, "{}", clean(line)))?;
        self.err.flush()?;
        flushed
    }

    /// Asks on the terminal; `None` where there is none.
    pub(super) fn ask(&mut self, question: &str) -> io::Result<Option<String>> {
        self.out.flush()?;
        let Some(answers) = &mut self.answers else { return Ok(None) };
        write!(self.err, "{} ", clean(question))?;
        self.err.flush()?;
        let mut answer = String::new();
        answers.read_line(&mut answer)?;
        Ok(Some(answer.trim().to_owned()))
    }
}

/// Whether a character can move a cursor, hide, or turn a text round.
fn is_hostile(c: char) -> bool {
    c.is_control()
        || matches!(c,
            '\u{ad}' | '\u{61c}' | '\u{115f}' | '\u{1160}' | '\u{180e}' | '\u{200b}'..='\u{200f}'
            | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{3164}' | '\u{feff}'
            | '\u{ffa0}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

/// The text with such characters shown by their numbers.
pub(super) fn clean(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if is_hostile(c) {
            out += &format!("‹U+{:04X}›", u32::from(c));
        } else {
            out.push(c);
        }
    }
    out
}

/// JSON in which such characters are escaped: the same value, and no harm to a terminal. They stand in
/// strings only, but for the line ends of the layout.
fn escape_json(json: &str) -> String {
    let mut out = String::with_capacity(json.len());
    for c in json.chars() {
        if is_hostile(c) && c != '\n' {
            let mut units = [0; 2];
            for unit in c.encode_utf16(&mut units) {
                out += &format!("\\u{unit:04x}");
            }
        } else {
            out.push(c);
        }
    }
    out
}

/// How many columns of a terminal a character takes, near enough.
fn width_of(c: char) -> usize {
    match c {
        '\u{300}'..='\u{36f}' | '\u{fe00}'..='\u{fe0f}' => 0,
        '\u{1100}'..='\u{115e}'
        | '\u{2e80}'..='\u{a4cf}'
        | '\u{ac00}'..='\u{d7a3}'
        | '\u{f900}'..='\u{faff}'
        | '\u{fe30}'..='\u{fe6f}'
        | '\u{ff00}'..='\u{ff60}'
        | '\u{1f300}'..='\u{1faff}'
        | '\u{20000}'..='\u{3fffd}' => 2,
        _ => 1,
    }
}

fn width(text: &str) -> usize {
    text.chars().map(width_of).sum()
}

/// The text within this many columns.
fn cut(text: &str, columns: usize) -> String {
    if width(text) <= columns {
        return text.to_owned();
    }
    let mut out = String::new();
    let mut used = 0;
    for c in text.chars() {
        if used + width_of(c) >= columns {
            break;
        }
        used += width_of(c);
        out.push(c);
    }
    out.push('…');
    out
}

/// Rows with aligned columns.
#[derive(Debug, Default)]
pub(super) struct Table {
    heads: Vec<&'static str>,
    rows: Vec<Vec<(String, Tone)>>,
}

impl Table {
    /// A table with these headings; one that begins with `>` is of a column of numbers.
    pub(super) fn new(heads: &[&'static str]) -> Self {
        Self { heads: heads.to_vec(), rows: Vec::new() }
    }

    pub(super) fn row<const N: usize>(&mut self, cells: [&str; N]) {
        self.row_in(Tone::Plain, cells);
    }

    /// A row whose first cell is in a tone.
    pub(super) fn row_in<const N: usize>(&mut self, tone: Tone, cells: [&str; N]) {
        let cells = cells.iter().enumerate();
        let cells = cells.map(|(i, cell)| (clean(cell), if i == 0 { tone } else { Tone::Plain }));
        self.rows.push(cells.collect());
    }

    fn lines(&self, columns: usize) -> Vec<Vec<(String, Tone)>> {
        let heads: Vec<_> = self.heads.iter().map(|head| head.trim_start_matches('>')).collect();
        let mut widths: Vec<usize> = heads.iter().map(|head| width(head)).collect();
        for row in &self.rows {
            for (widest, (cell, _)) in widths.iter_mut().zip(row) {
                *widest = (*widest).max(width(cell));
            }
        }
        // The widest columns give way first, down to a word.
        let gaps = 2 * widths.len().saturating_sub(1);
        while widths.iter().sum::<usize>() + gaps > columns {
            let Some(widest) = widths.iter_mut().max() else { break };
            if *widest <= 8 {
                break;
            }
            *widest -= 1;
        }
        let line = |cells: Vec<(&str, Tone)>| {
            let last = cells.len().saturating_sub(1);
            let cells = cells.into_iter().enumerate().map(|(i, (cell, tone))| {
                let cell = cut(cell, widths[i]);
                let fill = " ".repeat(widths[i] - width(&cell));
                let gap = if i < last { "  " } else { "" };
                let text = match (self.heads[i].starts_with('>'), i < last) {
                    (true, _) => format!("{fill}{cell}{gap}"),
                    (false, true) => format!("{cell}{fill}{gap}"),
                    (false, false) => cell,
                };
                (text, tone)
            });
            cells.collect::<Vec<_>>()
        };
        let head = line(heads.iter().map(|head| (*head, Tone::Plain)).collect());
        let rows = self
            .rows
            .iter()
            .map(|row| line(row.iter().map(|(cell, tone)| (cell.as_str(), *tone)).collect()));
        std::iter::once(head).chain(rows).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(table: &Table, columns: usize) -> Vec<String> {
        let lines = table.lines(columns).into_iter();
        lines.map(|line| line.into_iter().map(|(cell, _)| cell).collect()).collect()
    }

    #[test]
    fn hostile_characters_are_shown_by_their_numbers() {
        assert_eq!(clean("a\u{1b}[2J\u{202e}b\n"), "a‹U+001B›[2J‹U+202E›b‹U+000A›");
        assert_eq!(clean("größe 猫 ✓"), "größe 猫 ✓");
        let value = serde_json::json!({ "a": "x\u{1b}\u{202e}\u{9b}\u{e0001}" });
        let text = escape_json(&value.to_string());
        assert!(text.is_ascii(), "{text}");
        assert_eq!(serde_json::from_str::<Value>(&text).expect("is JSON"), value);
    }

    #[test]
    fn a_table_is_aligned_and_cut_to_the_terminal() {
        let mut table = Table::new(&["name", ">count", "text"]);
        table.row(["a", "5", "short"]);
        table.row(["a longer name", "12345", "a text that has many words in it"]);
        let wide = shown(&table, usize::MAX);
        assert_eq!(wide[0], "name           count  text");
        assert_eq!(wide[1], "a                  5  short");
        let narrow = shown(&table, 40);
        assert_eq!(narrow[2], "a longer name  12345  a text that has m…");
        assert!(narrow.iter().all(|line| width(line) <= 40), "{narrow:?}");
    }

    #[test]
    fn only_tones_colour_and_only_where_there_is_colour() {
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let mut console = Console::plain(&mut out, &mut err).coloured();
        console.say_in(Tone::Bad, "a\u{1b}[0m").expect("is written");
        drop(console);
        assert_eq!(String::from_utf8(out).expect("text"), "\x1b[31ma‹U+001B›[0m\x1b[0m\n");
    }
}
