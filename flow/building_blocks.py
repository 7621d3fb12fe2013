"""What an algorithm of your own is built of; docs/own-algorithm.md builds one. Everything else of flow may change.

The record:

* :class:`Algorithm` is what is registered or named on the command line. :class:`Tunable`, :class:`Scope` and
  :class:`Stopping` describe parts of it.
* An algorithm's options are a frozen dataclass, mostly derived from :class:`Sgd`. :func:`check_sgd`, :func:`check_rate`
  and :func:`check_number` refuse values out of range with :class:`UserError`.

What its functions get and give, for K clients side by side (tensors are stacked on a leading K, and :data:`Tensors` is a
dictionary of them by the names of the model's parameters):

* :class:`Visit` is what K clients have at hand: what they received [K, ..], what they kept, and their sequences,
  :class:`Data`. :class:`Upload` is what they send and keep, :class:`Personal` how they predict.
* :class:`Download` is what the server sends, :class:`Members` to whom, :class:`ClientState` what clients kept. The server step
  gets :class:`Uploads` and :class:`ServerOptions`; :func:`average` is the usual one.
* :class:`Draw` is where randomness comes from. ``visit.draw.stream("what for", client_id)`` is the NumPy generator of one
  client, which makes its numbers independent of the clients beside it.

Whole phases of training:

* :func:`fit` is a round's work by one update and :func:`finetune` a personalization by one. :func:`train` trains parameters
  [K, ..] in place by several updates a batch, and :func:`measure` gives their loss. :class:`Update` says which parameters move
  on which loss, and :class:`Sgd` how.

Single steps:

* :func:`batches` cuts data into :class:`Batch`, of the first k clients. :func:`halves` cuts one in two, :func:`only` masks
  it, and :func:`split` cuts all of the data.
* :func:`gradients` are those of k clients on a batch, :func:`descend` is one step of SGD, and :class:`Descent` steps that
  belong together, with momentum. :class:`Tally` adds up losses and tokens and gives the :class:`Work` that a run reports;
  :func:`per_token` counts operations.

Parameters:

* :func:`initial` takes them from the :class:`Model`, :func:`stack` and :func:`broadcast` give them to K clients, and
  :func:`copy` makes what was received trainable. :func:`names_of`, :func:`body_of` and :func:`head_of` choose among them,
  :func:`tagged` and :func:`untagged` keep several models in one dictionary, and :func:`per_client` combines [K] with [K, ..].
"""

from flow.algorithms.interface import Algorithm, Scope, Stopping, Tunable
from flow.algorithms.shared.finetuning import check_rate
from flow.checks import check_number
from flow.draws import Draw
from flow.errors import UserError
from flow.model.flops import per_token
from flow.model.interface import Model
from flow.model.parameters import (
    Route,
    Rows,
    Tensors,
    body_of,
    copy,
    head_of,
    initial,
    names_of,
    per_client,
    stack,
    tagged,
    untagged,
)
from flow.server.optimizers import average
from flow.server.options import ServerOptions
from flow.server.uploads import Uploads
from flow.training.batches import Batch, Data, batches, halves, only, split
from flow.training.descent import Descent, descend, gradients
from flow.training.messages import ClientState, Download, Members, Mixture, Personal, Upload, View, Visit, broadcast
from flow.training.records import Tally, Work
from flow.training.sgd import Sgd, Update, check_sgd
from flow.training.work import finetune, fit, measure, train

__all__ = [
    "Algorithm",
    "Batch",
    "ClientState",
    "Data",
    "Descent",
    "Download",
    "Draw",
    "Members",
    "Mixture",
    "Model",
    "Personal",
    "Route",
    "Rows",
    "Scope",
    "ServerOptions",
    "Sgd",
    "Stopping",
    "Tally",
    "Tensors",
    "Tunable",
    "Update",
    "Upload",
    "Uploads",
    "UserError",
    "View",
    "Visit",
    "Work",
    "average",
    "batches",
    "body_of",
    "broadcast",
    "check_number",
    "check_rate",
    "check_sgd",
    "copy",
    "descend",
    "finetune",
    "fit",
    "gradients",
    "halves",
    "head_of",
    "initial",
    "measure",
    "names_of",
    "only",
    "per_client",
    "per_token",
    "split",
    "stack",
    "tagged",
    "train",
    "untagged",
]
