//! Values from outside: what the admin listener offers of a running sensor.

use axum::Router;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::routing::{get, post};
use lwm2m::client::SendError;
use lwm2m_model::ObjectPath;
use tokio::sync::{mpsc, oneshot};

use crate::sensor::{Direction, SetError};

/// Commands waiting for the sensor; a further one waits to be taken.
const WAITING: usize = 16;

/// What the outside wants of the sensor.
#[derive(Debug)]
pub(crate) enum Command {
    Get {
        path: ObjectPath,
        reply: oneshot::Sender<Result<String, SetError>>,
    },
    Set {
        path: ObjectPath,
        text: String,
        reply: oneshot::Sender<Result<(), SetError>>,
    },
    Send {
        paths: Vec<ObjectPath>,
        reply: oneshot::Sender<Result<(), SendError>>,
    },
    Step {
        direction: Direction,
        reply: oneshot::Sender<()>,
    },
}

/// The routes, and the commands that come by them.
///
/// - `GET /sensor/<object>/<instance>/<resource>`: a value as text
/// - `POST /sensor/<object>/<instance>/<resource>`: sets it to the body, as if the device had measured it
/// - `POST /send`: reports what stands at the paths in the body, one a line, without being asked (LwM2M's Send)
/// - `POST /location/<north|east|south|west>`: one step over the map
pub(crate) fn routes() -> (Router, mpsc::Receiver<Command>) {
    let (commands, receiver) = mpsc::channel(WAITING);
    let router = Router::new()
        .route("/sensor/{*path}", get(read).post(write))
        .route("/send", post(send))
        .route("/location/{direction}", post(step))
        .with_state(commands);
    (router, receiver)
}

type Answer<T> = Result<T, (StatusCode, String)>;
type Commands = State<mpsc::Sender<Command>>;

async fn read(State(commands): Commands, Path(path): Path<String>) -> Answer<String> {
    let path = parse(&path)?;
    ask(&commands, |reply| Command::Get { path, reply })
        .await?
        .map_err(refusal)
}

async fn write(State(commands): Commands, Path(path): Path<String>, text: String) -> Answer<()> {
    let path = parse(&path)?;
    ask(&commands, |reply| Command::Set { path, text, reply })
        .await?
        .map_err(refusal)
}

async fn send(State(commands): Commands, text: String) -> Answer<()> {
    let paths: Vec<ObjectPath> = text.split_whitespace().map(parse).collect::<Answer<_>>()?;
    ask(&commands, |reply| Command::Send { paths, reply })
        .await?
        .map_err(|error| (StatusCode::CONFLICT, format!("{error}\n")))
}

async fn step(State(commands): Commands, Path(direction): Path<String>) -> Answer<()> {
    let direction = match direction.as_str() {
        "north" => Direction::North,
        "east" => Direction::East,
        "south" => Direction::South,
        "west" => Direction::West,
        _ => {
            return Err((
                StatusCode::NOT_FOUND,
                "go north, east, south or west\n".to_owned(),
            ));
        }
    };
    ask(&commands, |reply| Command::Step { direction, reply }).await
}

async fn ask<T>(
    commands: &mpsc::Sender<Command>,
    command: impl FnOnce(oneshot::Sender<T>) -> Command,
) -> Answer<T> {
    let stopped = || {
        (
            StatusCode::SERVICE_UNAVAILABLE,
            "the sensor is stopping\n".to_owned(),
        )
    };
    let (reply, answer) = oneshot::channel();
    commands.send(command(reply)).await.map_err(|_| stopped())?;
    answer.await.map_err(|_| stopped())
}

fn parse(path: &str) -> Answer<ObjectPath> {
    path.parse()
        .map_err(|error| (StatusCode::BAD_REQUEST, format!("{error}\n")))
}

fn refusal(error: SetError) -> (StatusCode, String) {
    let status = match &error {
        SetError::NotFound(_) => StatusCode::NOT_FOUND,
        SetError::BadValue(_) => StatusCode::BAD_REQUEST,
    };
    (status, format!("{error}\n"))
}
