//! Wishes about sets of pictures: how many, of which size, in sheets of which grid.
//!
//! Invariant: a set that is asked for without a fault has a bounded number of pictures a sheet, and sheets that every format
//! of pictures can hold.

use super::wishes::Wishes;
use super::{PictureSet, Scenario};
use crate::encode::{CodecChoice, Grid, Pace, PictureFormat, Pictures};
use crate::job::Parameters;

/// The set that a job asks for.
pub(super) fn wish(p: &Parameters, scenario: &Scenario) -> Option<Pictures> {
    let set = scenario.set?;
    let pace = p.picture_count.map_or(Pace::Every(p.every_sec.unwrap_or(Pictures::EVERY_SECS)), Pace::Count);
    let grid = match set {
        PictureSet::Files => None,
        PictureSet::Sheets => Some(grid(p)),
    };
    Some(Pictures { pace, format: p.picture_format.unwrap_or(PictureFormat::Jpg), grid })
}

fn grid(p: &Parameters) -> Grid {
    Grid { columns: p.columns.unwrap_or(Grid::USUAL.columns), rows: p.rows.unwrap_or(Grid::USUAL.rows) }
}

pub(super) fn check(wishes: &mut Wishes<'_>, scenario: &Scenario, codec: CodecChoice) {
    let p = wishes.p;
    let (of_grid, of_set) = (
        [("columns", p.columns.is_some()), ("rows", p.rows.is_some())],
        [
            ("every_sec", p.every_sec.is_some()),
            ("picture_count", p.picture_count.is_some()),
            ("picture_format", p.picture_format.is_some()),
        ],
    );
    let Some(set) = scenario.set else {
        let because = "only the scenarios `thumbnails` and `sprites` make sets of pictures";
        wishes.none_of(&of_set, because);
        return wishes.none_of(&of_grid, because);
    };
    if codec != CodecChoice::Picture {
        let message = format!("the scenario makes pictures, not {codec}: choose their format with `picture_format`");
        wishes.fault("codec", "contradiction", message);
    }
    pace(wishes);
    match set {
        PictureSet::Files => wishes.none_of(&of_grid, "only the scenario `sprites` puts pictures into sheets"),
        PictureSet::Sheets => sheets(wishes),
    }
}

fn pace(wishes: &mut Wishes<'_>) {
    let p = wishes.p;
    if p.every_sec.is_some() && p.picture_count.is_some() {
        let message = "`picture_count` and `every_sec` exclude each other: give one";
        wishes.fault("picture_count", "contradiction", message);
    }
    let (least, most) = (Pictures::LEAST_SECS, Pictures::MOST_SECS);
    if let Some(secs) = p.every_sec.filter(|secs| !(least..=most).contains(secs)) {
        wishes.fault("every_sec", "out_of_range", format!("{secs} is not between {least} and {most} seconds"));
    }
    if let Some(count) = p.picture_count.filter(|count| !(1..=Pictures::MOST).contains(count)) {
        wishes.fault("picture_count", "out_of_range", format!("{count} is not between 1 and {}", Pictures::MOST));
    }
}

fn sheets(wishes: &mut Wishes<'_>) {
    let p = wishes.p;
    let grid = grid(p);
    let tile = p.resolution.unwrap_or(Grid::TILE);
    for (field, count, side) in [("columns", grid.columns, tile.width), ("rows", grid.rows, tile.height)] {
        if !(1..=Grid::MOST).contains(&count) {
            wishes.fault(field, "out_of_range", format!("{count} is not between 1 and {}", Grid::MOST));
        } else if count.saturating_mul(side) > Grid::MOST_PIXELS {
            let (fits, most) = (Grid::MOST_PIXELS / side.max(1), Grid::MOST_PIXELS);
            let message =
                format!("{count} times {side} pixels are more than the {most} that a sheet may have: {fits} fit");
            wishes.fault(field, "out_of_range", message);
        }
    }
}
