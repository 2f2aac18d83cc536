//! `top`: the pool on one screen, live, with the keys to act on it.
//!
//! `app` decides, `draw` draws, both purely; `feed` asks the API, `screen` has the terminal, and this file joins them.
//!
//! Invariant: whatever ends the program, the terminal is left as it was found.

mod app;
mod draw;
mod feed;
mod filter;
mod keys;
mod screen;
mod theme;

#[cfg(test)]
mod tests;

use std::io::IsTerminal as _;
use std::time::Duration;

use crossterm::event::{Event as TerminalEvent, EventStream, KeyEventKind};
use ffpool::Client;
use futures_util::StreamExt as _;
use ratatui::buffer::Buffer;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, watch};

use self::app::{App, Command, Event, Want};
use self::screen::Screen;
use self::theme::Theme;
use super::Context;
use super::args::{ThemeName, Top};
use super::exit::{Exit, Trouble};
use super::output::{self, Format};

/// Columns of a picture that is printed where the terminal's are not known.
const PRINTED_COLUMNS: u16 = 100;
/// News that wait to be taken: the feed waits when there are more.
const NEWS_MAX: usize = 64;
/// Ages on the screen go on without news.
const REDRAW: Duration = Duration::from_secs(1);

pub(crate) async fn top(context: &Context, args: Top) -> Result<Exit, Trouble> {
    let client = context.client()?;
    if args.once {
        return once(context, &client, &args).await;
    }
    if !std::io::stdout().is_terminal() || !std::io::stdin().is_terminal() {
        return Err(Trouble::usage("`top` needs a terminal to draw on and to read keys from, and this is none")
            .next("`ffpool top --once` prints one picture; `ffpool jobs list --output json` is for programs."));
    }
    // Whoever mistook the address or the key is told so on the usual screen.
    let mut app = App::new(client.base(), &args.filter);
    app.on(Event::Seen(Box::new(feed::look(&client, &app.want()).await?)));
    let theme = Theme::of(args.theme);
    let mut screen =
        Screen::open().map_err(|error| Trouble::new(Exit::Trouble, format!("set up the terminal: {error}")))?;
    let ended = live(&client, app, &theme, &mut screen, args.interval).await;
    drop(screen);
    ended.map_err(|error| Trouble::new(Exit::Trouble, format!("draw on the terminal: {error}")))?;
    Ok(Exit::Success)
}

/// Until somebody quits, or the program is told to end.
async fn live(
    client: &Client,
    mut app: App,
    theme: &Theme,
    screen: &mut Screen,
    interval: Duration,
) -> std::io::Result<()> {
    let (news, mut heard) = mpsc::channel(NEWS_MAX);
    let (want, wanted) = watch::channel(app.want());
    let feed = tokio::spawn(feed::follow(client.clone(), wanted, news.clone(), interval));
    let mut keys = EventStream::new();
    let mut redraw = tokio::time::interval(REDRAW);
    let mut ends = [
        signal(SignalKind::terminate())?,
        signal(SignalKind::hangup())?,
        signal(SignalKind::interrupt())?,
        signal(SignalKind::quit())?,
    ];
    let [terminate, hangup, interrupt, quit] = &mut ends;
    'shown: loop {
        screen.draw(|area, buf| draw::screen(&app, theme, area, buf))?;
        let event = tokio::select! {
            Some(event) = heard.recv() => event,
            key = keys.next() => match key {
                Some(Ok(TerminalEvent::Key(key))) if key.kind != KeyEventKind::Release => Event::Key(key),
                Some(Ok(_)) => Event::Redraw,
                // The terminal is gone.
                Some(Err(_)) | None => break,
            },
            _ = redraw.tick() => Event::Redraw,
            _ = terminate.recv() => break,
            _ = hangup.recv() => break,
            _ = interrupt.recv() => break,
            _ = quit.recv() => break,
        };
        for command in app.on(event) {
            match command {
                Command::Quit => break 'shown,
                Command::Follow(this) => follow(&want, this),
                Command::Do(action) => {
                    let (client, news) = (client.clone(), news.clone());
                    tokio::spawn(async move {
                        // Nobody listens any more: the program ends.
                        let _ = news.send(Event::Done(feed::act(&client, &action).await)).await;
                    });
                }
            }
        }
    }
    feed.abort();
    Ok(())
}

/// Has the feed ask for this at once, even if it is what it asked for before.
fn follow(want: &watch::Sender<Want>, this: Want) {
    want.send_replace(this);
}

async fn once(context: &Context, client: &Client, args: &Top) -> Result<Exit, Trouble> {
    let mut app = App::new(client.base(), &args.filter);
    let snapshot = feed::look(client, &app.want()).await?;
    if context.format == Format::Json {
        context.format.print(&snapshot, |_| String::new());
        return Ok(Exit::Success);
    }
    app.on(Event::Seen(Box::new(snapshot)));
    let columns = crossterm::terminal::size().map_or(PRINTED_COLUMNS, |(columns, _)| columns);
    output::line(&printed(&app, columns.max(40)));
    Ok(Exit::Success)
}

/// The whole picture as lines of text.
fn printed(app: &App, columns: u16) -> String {
    let theme = Theme { blocks: Theme::of(None).blocks, ..Theme::named(ThemeName::Plain) };
    text_of(&draw::whole(app, &theme, columns)).join("\n")
}

/// The characters of a picture, line by line, without blanks at their ends.
fn text_of(buf: &Buffer) -> Vec<String> {
    let width = usize::from(buf.area.width).max(1);
    let lines = buf.content.chunks(width);
    lines.map(|cells| cells.iter().map(|cell| cell.symbol()).collect::<String>().trim_end().to_owned()).collect()
}
