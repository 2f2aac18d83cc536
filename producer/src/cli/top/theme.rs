//! The colours of `top`.
//!
//! Invariant: nothing is told by colour alone, so that `plain` loses nothing.

use ratatui::style::{Color, Modifier, Style};

use crate::cli::args::ThemeName;

/// How each part looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Theme {
    pub(crate) title: Style,
    /// The title of the table that keys act on.
    pub(crate) active: Style,
    pub(crate) faint: Style,
    pub(crate) good: Style,
    pub(crate) warn: Style,
    pub(crate) bad: Style,
    pub(crate) bar: Style,
    pub(crate) chosen: Style,
    /// What a bar is made of: the done part, and the rest.
    pub(crate) blocks: (char, char),
}

impl Theme {
    /// The theme of that name; where none is named, what the terminal is good for.
    pub(crate) fn of(name: Option<ThemeName>) -> Theme {
        let is_set = |variable: &str| std::env::var_os(variable).is_some_and(|value| !value.is_empty());
        let without = is_set("NO_COLOR") || std::env::var("TERM").is_ok_and(|term| term == "dumb");
        let default = if without { ThemeName::Plain } else { ThemeName::Dark };
        let locale = ["LC_ALL", "LC_CTYPE", "LANG"].into_iter().filter_map(|name| std::env::var(name).ok());
        let unicode = locale.into_iter().find(|text| !text.is_empty()).is_some_and(|text| {
            let text = text.to_ascii_lowercase();
            text.contains("utf-8") || text.contains("utf8")
        });
        let theme = Theme::named(name.unwrap_or(default));
        if unicode { Theme { blocks: ('█', '░'), ..theme } } else { theme }
    }

    pub(crate) fn named(name: ThemeName) -> Theme {
        let plain = Style::new();
        let (bold, reversed) = (plain.add_modifier(Modifier::BOLD), plain.add_modifier(Modifier::REVERSED));
        let base = Theme {
            title: plain,
            active: bold,
            faint: plain,
            good: plain,
            warn: bold,
            bad: bold,
            bar: plain,
            chosen: reversed,
            blocks: ('#', '.'),
        };
        match name {
            ThemeName::Plain => base,
            ThemeName::Dark => Theme {
                title: plain.fg(Color::Gray),
                active: bold.fg(Color::Cyan),
                faint: plain.fg(Color::DarkGray),
                good: plain.fg(Color::Green),
                warn: plain.fg(Color::Yellow),
                bad: bold.fg(Color::Red),
                bar: plain.fg(Color::Cyan),
                ..base
            },
            ThemeName::Light => Theme {
                active: bold.fg(Color::Blue),
                faint: plain.fg(Color::DarkGray),
                good: plain.fg(Color::Green),
                warn: plain.fg(Color::Magenta),
                bad: bold.fg(Color::Red),
                bar: plain.fg(Color::Blue),
                ..base
            },
        }
    }
}
