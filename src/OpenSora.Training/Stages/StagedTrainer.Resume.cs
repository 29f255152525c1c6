using System.Globalization;
using Microsoft.Extensions.Logging;
using Microsoft.Extensions.Logging.Abstractions;
using OpenSora.Training.Callbacks;
using OpenSora.Training.Data;
using OpenSora.Training.Objectives;
using OpenSora.Weights;

namespace OpenSora.Training.Stages;

/// <content>Resuming from a checkpoint.</content>
public sealed partial class StagedTrainer
{
    private string? _resumeFrom;
    private bool _resumeIfAny;
    private ResumeRules _resumeRules = new();
    private ILogger _logger = NullLogger.Instance;

    /// <summary>Continues an earlier run of the same stages from the exact point at which its checkpoint was written.</summary>
    /// <remarks>
    /// The settings, objective and data of the stage must be the same, unless <paramref name="mayDiffer"/> names them.
    /// <see cref="TrainingStage.Steps"/> and <see cref="TrainingStage.TimeLimit"/> can always differ: the run is then longer or shorter, a last stage
    /// that was complete continues if it is now longer, and the learning rate follows the schedule for the new length. Where a run resumes and what
    /// changed is logged (<see cref="LogTo"/>) and reported to callbacks (<see cref="ITrainingCallback.ObservedAsync"/>) as <c>resume</c>.
    /// <para>If settings differ, the optimizer state, the moving averages, and the position in the schedule and in the data are kept. After a change
    /// of the batch size, the run continues with the first batch that has only samples that the epoch has not used yet. If moving averages are new,
    /// they start from the weights. <see cref="TrainingStage.Data"/> and <see cref="TrainingStage.Objective"/> are compared by
    /// <see cref="ITrainingData.Fingerprint"/> and <see cref="ITrainingObjective.Fingerprint"/>. The trained parameters cannot differ, because the
    /// optimizer state belongs to them.</para>
    /// </remarks>
    /// <param name="path">The path of a checkpoint, or of a folder, from which the newest checkpoint is used. Only files with the names that training
    /// gives to checkpoints (<c>checkpoint-01-00000100.safetensors</c>) are considered.</param>
    /// <param name="ifAny">true to start from the beginning if there is no checkpoint yet; false to fail.</param>
    /// <param name="mayDiffer">The names of the properties of <see cref="TrainingStage"/> that may differ from the run that wrote the checkpoint,
    /// such as <see cref="TrainingStage.LearningRate"/> or <see cref="TrainingStage.BatchSize"/>; null for none.</param>
    /// <param name="usePreviousIfDamaged">true to continue from the checkpoint before the newest one if that one is damaged; false to fail. The log
    /// names the damaged file, and if the run saves to the same folder, <c>.damaged</c> is added to its name.</param>
    /// <exception cref="ArgumentException">A name is not that of a setting, or of a setting that cannot differ.</exception>
    public StagedTrainer Resume(string path, bool ifAny = false, IEnumerable<string>? mayDiffer = null, bool usePreviousIfDamaged = false)
    {
        ArgumentException.ThrowIfNullOrEmpty(path);
        var rules = new ResumeRules(mayDiffer, usePreviousIfDamaged);
        if (rules.Problems().FirstOrDefault() is { } problem)
        {
            throw new ArgumentException(problem, nameof(mayDiffer));
        }

        (_resumeFrom, _resumeIfAny, _resumeRules) = (path, ifAny, rules);
        return this;
    }

    /// <summary>Logs where the run resumes, settings that differ from those of the checkpoint, and damaged checkpoints.</summary>
    /// <param name="logger">The logger.</param>
    public StagedTrainer LogTo(ILogger logger)
    {
        ArgumentNullException.ThrowIfNull(logger);
        _logger = logger;
        return this;
    }

    // Opens the checkpoint to resume from; null to start from the beginning.
    private ResumePoint? FindCheckpoint()
    {
        if (_resumeFrom is null)
        {
            return null;
        }

        ResumePoint? point = null;
        Together(() => point = ResumePoint.Find(_resumeFrom, _resumeRules), onlyFirst: true);
        if (_group is not null)
        {
            // The other processes open the same checkpoint, even if they see a newer one.
            var name = _group.FromFirst(point is null ? null : Path.GetFileName(point.File.Path));
            Together(() => point ??= name is null ? null : ResumePoint.Find(InResumed(name), _resumeRules) ?? throw NoCheckpoint(InResumed(name)));
        }

        return point is null && !_resumeIfAny ? throw NoCheckpoint(_resumeFrom) : point;
    }

    private string InResumed(string name) => File.Exists(_resumeFrom) ? _resumeFrom : Path.Combine(_resumeFrom!, name);

    // Loads the weights of a checkpoint, and returns what people should know about resuming from it.
    private List<string> Continue(ResumePoint point)
    {
        var path = point.File.Path;
        var changes = ResumeCheck.Require(point.State, path, _stages, _objective, _resumeRules);
        Checkpoint.ReadWeights(point.File, _objective.Modules, averages: false, options: null);
        List<string> notes = [];
        if (_group is { IsFirst: false })
        {
            return notes;
        }

        foreach (var (damaged, reason) in point.Damaged)
        {
            LogDamaged(damaged, reason, path);
            notes.Add($"'{Path.GetFileName(damaged)}' is damaged; the run continues from '{Path.GetFileName(path)}'");
        }

        LogResumed(path, point.State.StageName, point.State.Step);
        foreach (var change in changes)
        {
            LogChanged(point.State.StageName, change);
            notes.Add(change);
        }

        return notes;
    }

    // Reports that a stage of the run that is resumed was complete already.
    private ValueTask ReportCompleteAsync(TrainingRun run, IReadOnlyList<string> notes)
    {
        var stage = run.Stage;
        var complete = string.Create(CultureInfo.InvariantCulture, $"stage '{stage.Name}' is complete after {run.Step:N0} steps");
        var isLast = ReferenceEquals(stage, _stages[^1]);
        LogComplete(complete, isLast ? NothingToDo : "");
        return ReportAsync(run, [.. notes, isLast ? $"{complete}. {NothingToDo}" : complete]);
    }

    private const string NothingToDo =
        "The run is complete, and nothing is trained: increase Steps or TimeLimit to continue it, or save to another folder to start again.";

    private static ValueTask ReportAsync(TrainingRun run, IReadOnlyList<string> notes) =>
        notes.Count == 0 ? default : run.ReportAsync(new TrainingObservation("resume") { Text = string.Join("; ", notes) });

    // The path of a file, or of the newest checkpoint in a folder.
    private static string Existing(string path)
    {
        using var point = File.Exists(path) ? null : ResumePoint.Find(path, new ResumeRules());
        return File.Exists(path) ? path : point?.File.Path ?? throw NoCheckpoint(path);
    }

    private static FileNotFoundException NoCheckpoint(string path) =>
        new(
            $"There is no checkpoint or weights file at '{path}'."
                + (
                    Directory.Exists(path) && Directory.EnumerateFiles(path, "*.safetensors").FirstOrDefault() is { } other
                        ? $" The folder has '{Path.GetFileName(other)}', but checkpoints have names such as 'checkpoint-01-00000100.safetensors'; "
                            + "specify the path of the file to use it."
                        : ""
                ),
            path
        );

    [LoggerMessage(1, LogLevel.Information, "Resumed from {Path}: stage '{Stage}' after step {Step}")]
    private partial void LogResumed(string path, string stage, long step);

    [LoggerMessage(2, LogLevel.Information, "Stage '{Stage}' continues with another setting: {Change}")]
    private partial void LogChanged(string stage, string change);

    [LoggerMessage(3, LogLevel.Warning, "The checkpoint {Path} is damaged: {Reason} The run continues from {Previous}")]
    private partial void LogDamaged(string path, string reason, string previous);

    [LoggerMessage(4, LogLevel.Information, "In the run that is resumed, {Complete}. {Advice}")]
    private partial void LogComplete(string complete, string advice);
}
