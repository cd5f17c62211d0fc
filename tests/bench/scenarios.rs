//! The scenarios, in the order in which each server goes through them.

use std::time::Duration;

use anyhow::Context;

use crate::{
    Plan,
    client::Client,
    fan_out,
    figure::{Figure, Meter},
    people, progress, read, report, send,
    server::Server,
    waiting,
};

/// Members of the room that is written to.
const MEMBERS: usize = 32;
/// How many send at once, where that is not what is measured.
const SENDERS: usize = 16;
/// Rooms that are written to in turn.
const ROOMS_WRITTEN: usize = 100;
/// How far back history is read.
const HISTORY: usize = 1000;
/// How often a server is started anew.
const RESTARTS: usize = 3;

/// What was measured of a server.
#[derive(Debug)]
pub(crate) struct Measured {
    /// Its name.
    pub(crate) server: String,
    /// In the order of the scenarios.
    pub(crate) figures: Vec<Figure>,
}

/// Measures all servers and reports.
pub(crate) async fn run(plan: &Plan) -> anyhow::Result<()> {
    let machine = report::Machine::look(&plan.data_dir)?;
    let mut measured = Vec::new();
    if !plan.without_allod {
        let folder = tempfile::Builder::new().prefix("bench-").tempdir_in(&plan.data_dir)?;
        let (server, took) = Server::start(&plan.allod, folder.path()).await?;
        let mut figures = vec![Figure::single("first start", took, server.process)];
        tokio::time::sleep(Duration::from_secs(2)).await;
        figures.push(Figure::memory("idle", server.process));
        measured.push(measure(plan, server, figures).await?);
    }
    for spec in &plan.servers {
        let server = Server::from(spec.clone());
        let figures = vec![Figure::memory("idle", server.process)];
        measured.push(measure(plan, server, figures).await?);
    }
    let report = report::render(&machine, &measured)?;
    report::publish(&report, plan.output.as_deref())
}

async fn measure(plan: &Plan, server: Server, figures: Vec<Figure>) -> anyhow::Result<Measured> {
    let name = server.name.clone();
    let run = Run { plan, server, people: Vec::new(), rooms: Vec::new(), figures };
    let figures = run.all().await.with_context(|| format!("measuring {name}"))?;
    Ok(Measured { server: name, figures })
}

/// One server's way through the scenarios.
struct Run<'a> {
    plan: &'a Plan,
    server: Server,
    /// The first is in every room; the next are members of the big room and send.
    people: Vec<Client>,
    /// The first is the big one.
    rooms: Vec<String>,
    figures: Vec<Figure>,
}

impl Run<'_> {
    async fn all(mut self) -> anyhow::Result<Vec<Figure>> {
        self.prepare().await?;
        self.sends().await?;
        self.reads().await?;
        self.fan_outs().await?;
        self.figures.push(Figure::memory("after all of it", self.server.process));
        self.restarts().await?;
        self.waits().await?;
        self.server.stop().await?;
        Ok(self.figures)
    }

    fn limit(&self) -> Duration {
        Duration::from_secs(self.plan.seconds)
    }

    fn wants(&self, scenario: &str) -> bool {
        let wanted = scenario.contains(&self.plan.only);
        if wanted {
            progress(&format!("{}: {scenario}", self.server.name));
        }
        wanted
    }

    /// People and rooms, which are figures too.
    async fn prepare(&mut self) -> anyhow::Result<()> {
        let Self { plan, server, people, .. } = self;
        let most = plan.senders.iter().copied().max().unwrap_or_default().max(SENDERS);
        let wanted = plan.people.max(MEMBERS).max(most + 1);
        progress(&format!("{}: people and rooms", server.name));
        self.figures.push(people::register(server, people, wanted).await?);
        let (first, others) = people.split_first_mut().context("nobody")?;
        let (rooms, figure) = people::create_rooms(server, first, plan.rooms.max(ROOMS_WRITTEN + 1)).await?;
        self.figures.push(figure);
        let big = rooms.first().context("no rooms")?;
        let members = others.get_mut(..MEMBERS - 1).context("too few people")?;
        self.figures.push(people::join_all(server, members, big).await?);
        self.rooms = rooms;
        Ok(())
    }

    async fn sends(&mut self) -> anyhow::Result<()> {
        let big = self.rooms.first().context("no rooms")?.clone();
        let many: Vec<String> = self.rooms.iter().skip(1).take(ROOMS_WRITTEN).cloned().collect();
        for senders in self.plan.senders.clone() {
            let scenario = format!("send, 1 room, senders: {senders}");
            if self.wants(&scenario) {
                let limit = self.limit();
                let people = self.people.get_mut(1..=senders).context("too few people")?;
                if let Some(more) = people.get_mut(MEMBERS - 1..) {
                    people::join_all(&self.server, more, &big).await?;
                }
                let figure =
                    send::send(&self.server, &scenario, people, |_| vec![big.clone()], limit).await?;
                self.figures.push(figure);
            }
        }
        for senders in self.plan.senders.clone() {
            let scenario = format!("send, {ROOMS_WRITTEN} rooms, senders: {senders}");
            if self.wants(&scenario) {
                let limit = self.limit();
                // Who sends alone is the one who is in all rooms; the others have their own each, or share them.
                let first = usize::from(senders > 1);
                let people = self.people.get_mut(first..first + senders).context("too few people")?;
                let rooms_of = |number| {
                    let rooms = many.iter().skip(number % ROOMS_WRITTEN).step_by(senders);
                    rooms.cloned().collect::<Vec<_>>()
                };
                if senders > 1 {
                    for (number, person) in people.iter_mut().enumerate() {
                        for room in rooms_of(number) {
                            people::join(person, &room).await?;
                        }
                    }
                }
                let figure = send::send(&self.server, &scenario, people, rooms_of, limit).await?;
                self.figures.push(figure);
            }
        }
        Ok(())
    }

    async fn reads(&mut self) -> anyhow::Result<()> {
        let limit = self.limit();
        let big = self.rooms.first().context("no rooms")?.clone();
        let rooms = self.rooms.len();
        let room = self.rooms.get(1).context("no rooms")?.clone();
        if self.wants("page back") {
            let senders = self.people.get_mut(1..=SENDERS).context("too few people")?;
            send::fill(senders, &big, HISTORY).await?;
            let reader = self.people.first_mut().context("nobody")?;
            self.figures.push(read::page_back(&self.server, reader, &big, HISTORY, limit).await?);
        }
        let (reader, others) = self.people.split_first_mut().context("nobody")?;
        let sender = others.first_mut().context("too few people")?;
        if "initial sync".contains(&self.plan.only) {
            progress(&format!("{}: initial sync", self.server.name));
            self.figures.push(read::initial_syncs(&self.server, reader, rooms, limit).await?);
        }
        if "incremental sync".contains(&self.plan.only) {
            progress(&format!("{}: incremental sync", self.server.name));
            people::join(sender, &room).await?;
            let figure = read::incremental_syncs(&self.server, sender, reader, &room, rooms, limit).await?;
            self.figures.push(figure);
        }
        Ok(())
    }

    async fn fan_outs(&mut self) -> anyhow::Result<()> {
        for listeners in self.plan.fan_out.clone() {
            if listeners > self.server.fan_out_max || !self.wants(&format!("fan-out to {listeners}")) {
                continue;
            }
            let limit = self.limit();
            people::register(&self.server, &mut self.people, listeners + 1).await?;
            let all = self.people.get_mut(..=listeners).context("too few people")?;
            let (sender, others) = all.split_first_mut().context("nobody")?;
            let room = people::create_room(sender, "Everyone").await?;
            people::join_all(&self.server, others, &room).await?;
            match fan_out::fan_out(&self.server, sender, others, &room, limit).await {
                Ok(figures) => self.figures.extend(figures),
                // One that loses messages under load says so in its row, and the comparison goes on.
                Err(error) => {
                    let scenario = format!("fan-out, 1 sender to {listeners} on /sync");
                    let mut figure = Figure::memory(&scenario, self.server.process);
                    figure.note = format!("failed: {error:#}");
                    self.figures.push(figure);
                }
            }
        }
        Ok(())
    }

    /// Starts, and the first sync after a start, which finds nothing in memory.
    async fn restarts(&mut self) -> anyhow::Result<()> {
        if !self.wants("restart") {
            return Ok(());
        }
        let mut starts = Vec::new();
        let mut syncs = Vec::new();
        let mut cpu = Some(Duration::ZERO);
        for _ in 0..RESTARTS {
            let Some(took) = self.server.restart().await? else { return Ok(()) };
            starts.push(took);
            tokio::time::sleep(Duration::from_millis(500)).await;
            let reader = self.people.first_mut().context("nobody")?;
            let began = std::time::Instant::now();
            let meter = Meter::start(self.server.process);
            read::sync_all(reader, self.rooms.len(), 0).await?;
            syncs.push(began.elapsed());
            let figure = meter.stop("", Vec::new());
            cpu = cpu.zip(figure.cpu).map(|(sum, more)| sum + more);
        }
        let rooms = self.rooms.len();
        let mut figure = Meter::start(self.server.process).stop("restart", starts.clone());
        figure.elapsed = starts.iter().sum();
        figure.cpu = None;
        self.figures.push(figure);
        let mut figure = Meter::start(self.server.process)
            .stop(format!("initial sync of {rooms} rooms, cold"), syncs.clone());
        figure.elapsed = syncs.iter().sum();
        figure.cpu = cpu;
        self.figures.push(figure);
        Ok(())
    }

    /// Many who wait while nothing happens, at a server that was just started if it is ours to start.
    async fn waits(&mut self) -> anyhow::Result<()> {
        let waiting = self.plan.waiting;
        if waiting > self.server.fan_out_max || !self.wants("waiting in /sync") {
            return Ok(());
        }
        people::register(&self.server, &mut self.people, waiting + 1).await?;
        // The first is in hundreds of rooms, which would be another measurement.
        let people = self.people.get_mut(1..=waiting).context("too few people")?;
        self.figures.push(waiting::wait(&self.server, people).await?);
        Ok(())
    }
}
