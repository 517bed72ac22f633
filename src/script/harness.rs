//! The runtime as the harness of Lua tests uses it (`testing`): a VM in which nothing of a script has run, the argument
//! readers of the functions that the fakes replace, the pushing of results, and a script's position.

pub(crate) use super::build::{LOAD_BUDGET, bare};
pub(crate) use super::mix::conn::{channel_args, close_args, context_args, kind_arg};
pub(crate) use super::mix::history::{history_args, page_of};
pub(crate) use super::mix::http::problem as request_problem;
pub(crate) use super::mix::jwt::{Source as KeySource, check_args as jwt_args};
pub(crate) use super::mix::log::log_args;
pub(crate) use super::mix::mesh::{Closed, close_mesh_args, count_arg, publish_args, send_args as mesh_send_args};
pub(crate) use super::mix::presence::{no_presence, presence_args};
pub(crate) use super::mix::queue::push_args;
pub(crate) use super::mix::redis::command_args;
pub(crate) use super::mix::subscribe::{Subscription, place, subscribe_args};
pub(crate) use super::mix::time::sleep_arg;
pub(crate) use super::mix::timer::{NOT_AT_TOP_LEVEL as NO_TIMERS_HERE, cancel_arg, timer_args};
pub(crate) use super::push::{One, Pushed, Table, with};
pub(crate) use super::trace::{script_place, traceback};
pub(crate) use crate::cluster::keeps_nothing;
