//! A worker's control lane: what it is told to do, apart from deliveries.

use std::rc::Rc;
use std::sync::Arc;
use tokio::sync::{mpsc, oneshot};
use tokio::task::{AbortHandle, spawn_local};

use super::arrivals::Arrival;
use super::{Control, Listener, Role, Step, Worker, accept, drain, handover, starting};
use crate::script::program::Program;
use crate::script::vm::Vm;
use crate::shard::transport::Transport;
use crate::telemetry::rate_limited::rate_limited;

/// Does what the control lane says until the worker has drained.
pub(super) async fn run(worker: Rc<Worker>, mut lane: mpsc::Receiver<Control>, mut listeners: Vec<Listener>) {
    let mut accepting = Vec::new();
    if !worker.hold.is_on() {
        accepting = accept_all(&worker, &listeners);
    }
    while let Some(control) = lane.recv().await {
        match control {
            Control::Adopt => {
                if let Some(Arrival { role, socket, peer, load }) = worker.peers.arrived(worker.id) {
                    match Transport::adopt(socket) {
                        Ok(transport) => accept::adopt(&worker, role, transport, peer, load),
                        Err(e) => {
                            rate_limited!(WARN, "connections are lost", ""; "a connection from {peer} was lost: {e}")
                        }
                    }
                }
            }
            Control::Build { server, program, done } => {
                match build(&worker, server, program) {
                    // It may wait, and clients wait for nothing that this lane brings.
                    Ok(vm) => drop(spawn_local(start(worker.clone(), server, vm, done))),
                    Err(e) => drop(done.send(Err(e))),
                }
            }
            Control::Swap { server, accept } => {
                if let Some(vm) = worker.servers[server].next.take()
                    && accept
                {
                    worker.timers.keep_set(server, vm.program.version);
                    worker.servers[server].replace_vm(vm);
                }
            }
            Control::Configure => {
                let config = worker.config.load();
                worker.hub.bound_subscriptions(config.max_subscriptions);
                worker.hub.history().bound(config.history_limit);
                worker.hub.history().set_rules(&config.channels);
                worker.shard.set_rules(&config.channels);
                worker.shard.traces.turn(config.tracing.ratio(), &worker.spans);
                worker.shared.bound(config.luavm.shared_limit);
                let mut unsent_changed = false;
                for (server, new) in worker.servers.iter().zip(&config.servers) {
                    let old = server.served.limits.replace(new.limits);
                    server.served.rates.set(new.rate);
                    unsent_changed |= old.unsent_limit != new.limits.unsent_limit;
                }
                if unsent_changed {
                    worker.shard.each(|conn| conn.transport.bound_unsent(conn.served.limits.get().unsent_limit));
                }
                worker.api.reconfigured();
            }
            Control::CloseClients { over, done } => {
                // Callers are served to the end: the clients that are left go on.
                listeners.retain(|listener| !matches!(listener.role, Role::Server(_)));
                for (_, accepting) in accepting.extract_if(.., |(role, _)| matches!(role, Role::Server(_))) {
                    accepting.abort();
                }
                spawn_local(drain::close_clients(worker.clone(), over, done));
            }
            Control::Handover(step) => {
                let lifts = matches!(step, Step::Lift);
                if !lifts && !matches!(step, Step::Waiting(_)) {
                    accepting.drain(..).for_each(|(_, accepting)| accepting.abort());
                }
                handover::run(&worker, step).await;
                if lifts {
                    accepting = accept_all(&worker, &listeners);
                }
            }
            Control::Drain => break,
        }
    }
    accepting.iter().for_each(|(_, accepting)| accepting.abort());
    drop(listeners);
    lane.close();
    // Sockets that were on their way to this worker are not served any more.
    while lane.try_recv().is_ok() {}
    while worker.peers.arrived(worker.id).is_some() {}
    drain::run(&worker).await;
}

/// Accepts at all ports, each in a task of its own.
fn accept_all(worker: &Rc<Worker>, listeners: &[Listener]) -> Vec<(Role, AbortHandle)> {
    let accept = |listener: &Listener| match listener.try_clone() {
        Ok(listener) => Some((listener.role, spawn_local(accept::run(worker.clone(), listener)).abort_handle())),
        Err(e) => {
            tracing::error!("cannot listen for {:?}: {e}", listener.role);
            None
        }
    };
    listeners.iter().filter_map(accept).collect()
}

fn build(worker: &Worker, server: usize, program: Arc<Program>) -> Result<Rc<Vm>, String> {
    // The script has been tried elsewhere, and its files are compiled. Here clients wait for it, no longer than for any
    // handler.
    let budget = worker.config.load().servers[server].limits.handler_timeout.max(starting::BUILD);
    let vm = Vm::within(budget, program, &worker.vm_limits)?;
    worker.servers[server].next.replace(Some(vm.clone()));
    Ok(vm)
}

/// Runs `on_start` in a VM that has been built.
async fn start(worker: Rc<Worker>, server: usize, vm: Rc<Vm>, done: oneshot::Sender<Result<(), String>>) {
    let _ = done.send(starting::on_start(&worker, server, &vm).await);
}
