//! What stands above everything else: questions and the help.

use ratatui::buffer::Buffer;
use ratatui::layout::{Constraint, Rect};
use ratatui::symbols::border;
use ratatui::text::{Line, Span, Text};
use ratatui::widgets::{Block, Clear, Paragraph, Widget, Wrap};

use super::super::app::Question;
use super::super::keys;
use super::super::theme::Theme;

/// A frame for terminals without Unicode.
const ASCII: border::Set<'_> = border::Set {
    top_left: "+",
    top_right: "+",
    bottom_left: "+",
    bottom_right: "+",
    vertical_left: "|",
    vertical_right: "|",
    horizontal_top: "-",
    horizontal_bottom: "-",
};

pub(super) fn ask(question: &Question, theme: &Theme, area: Rect, buf: &mut Buffer) {
    let text = Text::from(vec![
        Line::styled(question.text.clone(), theme.warn),
        Line::raw(question.consequence.clone()),
        Line::raw(""),
        Line::from(vec![
            Span::styled("y", theme.active),
            Span::raw(" yes   "),
            Span::styled("n", theme.active),
            Span::raw(" no"),
        ]),
    ]);
    window("Sure?", text, 60, 4, theme, area, buf);
}

pub(super) fn help(theme: &Theme, area: Rect, buf: &mut Buffer) {
    let lines: Vec<Line<'_>> = keys::help()
        .map(|(key, meaning)| Line::from(vec![Span::styled(format!("{key:<11}"), theme.active), Span::raw(meaning)]))
        .collect();
    let rows = u16::try_from(lines.len()).unwrap_or(u16::MAX);
    window("Keys; any key closes", Text::from(lines), 62, rows, theme, area, buf);
}

/// A framed text in the middle.
fn window(title: &str, text: Text<'_>, width: u16, rows: u16, theme: &Theme, area: Rect, buf: &mut Buffer) {
    // A question's lines may be wrapped once.
    let width = (width + 4).min(area.width);
    let wrapped = text.lines.iter().filter(|line| line.width() > usize::from(width.saturating_sub(4))).count();
    let height = (rows + 2 + u16::try_from(wrapped).unwrap_or(0)).min(area.height);
    let place = area.centered(Constraint::Length(width), Constraint::Length(height));
    Clear.render(place, buf);
    let frame = Block::bordered()
        .border_set(if theme.blocks.0.is_ascii() { ASCII } else { border::ROUNDED })
        .title(format!(" {title} "))
        .border_style(theme.active);
    let inner = frame.inner(place).inner(ratatui::layout::Margin { horizontal: 1, vertical: 0 });
    frame.render(place, buf);
    Paragraph::new(text).wrap(Wrap { trim: false }).render(inner, buf);
}
