using OpenSora.Models;

namespace OpenSora.Training.Planning;

/// <summary>The estimated cost of a stage.</summary>
public sealed record StageEstimate
{
    /// <summary>The stage.</summary>
    public required PlannedStage Stage { get; init; }

    /// <summary>The number of clips processed, over all devices.</summary>
    public double Samples { get; init; }

    /// <summary>The operations of the model's forward pass for one sample.</summary>
    public required FlopEstimate Forward { get; init; }

    /// <summary>The operations of encoding the clip and the caption of one sample, if they are not cached.</summary>
    public required FlopEstimate Encoding { get; init; }

    /// <summary>The floating-point operations of the whole stage.</summary>
    public double Flops { get; init; }

    /// <summary>The maximum memory in use on one device at any time, in bytes. Only tensors are counted, not the program and its libraries.</summary>
    public double PeakMemory { get; init; }

    /// <summary>The memory used on one device by purpose, in bytes: <c>parameters</c>, <c>gradients</c>, <c>optimizer</c>, <c>average</c>,
    /// <c>activations</c> (what the forward pass keeps for the backward pass), <c>working</c> (the additional memory of the backward pass) and
    /// <c>encoders</c>. Activations are released as gradients are computed, so the peak is less than the sum.</summary>
    public required IReadOnlyDictionary<string, double> Memory { get; init; }

    /// <summary>The host memory used on one server, in bytes: by what is offloaded.</summary>
    public double HostMemory { get; init; }

    /// <summary>The time of one optimizer step, from a simulation of its operations, transfers and updates in the order in which they run.</summary>
    public TimeSpan StepTime { get; init; }

    /// <summary>The simulated step: what is busy (<c>device</c>, <c>communication</c> or <c>host</c>), what it does, such as <c>forward 3</c>, and
    /// from when to when, in seconds since the start of the step.</summary>
    public IReadOnlyList<(string Lane, string Name, double Start, double End)> Timeline { get; init; } = [];

    /// <summary>What takes most of the time of a step: <c>linear layers</c>, <c>attention</c>, <c>memory bandwidth</c>, <c>communication</c>,
    /// <c>host transfers</c> or <c>host updates</c>.</summary>
    public string BoundBy { get; init; } = "";

    /// <summary>true if the peak memory is within the device's memory, and the host memory within that of the server.</summary>
    public bool Fits { get; init; }

    /// <summary>The sum of the hours of all devices.</summary>
    public double GpuHours { get; init; }

    /// <summary>The time from start to end.</summary>
    public TimeSpan WallTime { get; init; }

    /// <summary>The price in US dollars.</summary>
    public double Dollars { get; init; }
}
