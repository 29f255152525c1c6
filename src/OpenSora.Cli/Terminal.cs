using System.CommandLine;
using System.Globalization;
using System.Text.Encodings.Web;
using System.Text.Json;
using System.Text.Json.Serialization;
using Microsoft.Extensions.Options;
using OpenSora.ModelFolders;
using OpenSora.Weights;
using Spectre.Console;

namespace OpenSora.Cli;

/// <summary>The output of a command: results on standard output, as text or JSON, and messages and progress on standard error.</summary>
internal sealed class Terminal
{
    private static readonly JsonSerializerOptions s_json = new(JsonSerializerDefaults.Web)
    {
        WriteIndented = true,
        Encoder = JavaScriptEncoder.UnsafeRelaxedJsonEscaping,
        NumberHandling = JsonNumberHandling.AllowNamedFloatingPointLiterals,
        Converters = { new JsonStringEnumConverter() },
    };

    private readonly TextWriter _output;
    private readonly TextWriter _error;
    private readonly bool _isInteractive;

    private Terminal(ParseResult arguments)
    {
        (_output, _error) = (arguments.InvocationConfiguration.Output, arguments.InvocationConfiguration.Error);
        IsJson = arguments.GetValue(CommandLine.Json);
        _isInteractive = ReferenceEquals(_error, Console.Error) && !Console.IsErrorRedirected;
    }

    /// <summary>Gets the writer of results. Only the first of several processes has one.</summary>
    public TextWriter Output => Rank == 0 ? _output : TextWriter.Null;

    /// <summary>Gets the writer of messages. Only the first of several processes has one.</summary>
    public TextWriter Error => Rank == 0 ? _error : TextWriter.Null;

    /// <summary>Gets or sets the number of this process among those that work together, from 0.</summary>
    public int Rank { get; set; }

    /// <summary>Gets a value that indicates whether the result is written as JSON.</summary>
    public bool IsJson { get; }

    /// <summary>Gets a value that indicates whether a person can answer questions.</summary>
    public bool CanAsk => _isInteractive && !Console.IsInputRedirected && !IsJson;

    /// <summary>Creates an action for a command, which reports errors in one line and returns an exit code.</summary>
    /// <param name="run">The command.</param>
    /// <param name="stopped">The message if the command is canceled.</param>
    public static Func<ParseResult, CancellationToken, Task<int>> Action(
        Func<ParseResult, Terminal, CancellationToken, Task<int>> run,
        string stopped = "Stopped."
    ) =>
        async (arguments, cancellationToken) =>
        {
            var terminal = new Terminal(arguments);
            try
            {
                return await run(arguments, terminal, cancellationToken).ConfigureAwait(false);
            }
            catch (OperationCanceledException)
            {
                terminal.Fail(stopped);
                return CommandLine.Canceled;
            }
            catch (Exception exception) when (Explanation(exception) is { } message)
            {
                terminal.Fail(message);
                return CommandLine.Failure;
            }
        };

    /// <summary>Writes the result as JSON.</summary>
    public void WriteJson(object value) => Output.WriteLine(JsonSerializer.Serialize(value, s_json));

    /// <summary>Writes an error message, and with <c>--json</c> a document that contains it.</summary>
    public void Fail(string message)
    {
        _error.WriteLine(Rank == 0 ? message : $"rank {Rank}: {message}");
        if (IsJson)
        {
            WriteJson(new { Error = message });
        }
    }

    /// <summary>Creates a console with markup and tables on standard output.</summary>
    public IAnsiConsole CreateConsole() => CreateConsole(Output, ReferenceEquals(Output, Console.Out) && !Console.IsOutputRedirected);

    /// <summary>Asks a question that is answered with yes or no.</summary>
    public async Task<bool> ConfirmAsync(string question, CancellationToken cancellationToken)
    {
        await Error.WriteAsync($"{question} [y/N] ").ConfigureAwait(false);
        var answer = await Console.In.ReadLineAsync(cancellationToken).ConfigureAwait(false);
        return answer?.Trim().ToUpperInvariant() is "Y" or "YES";
    }

    /// <summary>Runs work with a bar for each of its stages on a terminal, and with lines elsewhere.</summary>
    public async Task<T> WithProgressAsync<T>(Func<Stages, Task<T>> run)
    {
        if (!_isInteractive)
        {
            return await run(new Stages(Error, null)).ConfigureAwait(false);
        }

        return await CreateConsole(Error, isTerminal: true)
            .Progress()
            .HideCompleted(false)
            .Columns(
                new TaskDescriptionColumn { Alignment = Justify.Left },
                new ProgressBarColumn(),
                new PercentageColumn(),
                new RemainingTimeColumn(),
                new SpinnerColumn()
            )
            .StartAsync(context => run(new Stages(Error, context)))
            .ConfigureAwait(false);
    }

    /// <summary>Formats a number of bytes.</summary>
    public static string Bytes(long bytes) =>
        bytes switch
        {
            >= 1_000_000_000 => string.Create(CultureInfo.InvariantCulture, $"{bytes / 1e9:F2} GB"),
            >= 1_000_000 => string.Create(CultureInfo.InvariantCulture, $"{bytes / 1e6:F1} MB"),
            _ => string.Create(CultureInfo.InvariantCulture, $"{bytes / 1e3:F1} kB"),
        };

    /// <summary>Replaces the folder of the user in a text by <c>~</c>.</summary>
    public static string Shortened(string text)
    {
        var home = Environment.GetFolderPath(Environment.SpecialFolder.UserProfile);
        return home.Length > 1 ? text.Replace(home, "~", StringComparison.Ordinal) : text;
    }

    /// <summary>Returns text for markup. Text from a file may contain markup and control characters.</summary>
    public static string Escaped(string text) => Markup.Escape(string.Concat(text.Select(c => char.IsControl(c) ? '\uFFFD' : c)));

    private static IAnsiConsole CreateConsole(TextWriter writer, bool isTerminal)
    {
        var console = AnsiConsole.Create(
            new AnsiConsoleSettings
            {
                Out = new AnsiConsoleOutput(writer),
                Ansi = isTerminal ? AnsiSupport.Detect : AnsiSupport.No,
                Interactive = isTerminal ? InteractionSupport.Detect : InteractionSupport.No,
            }
        );
        if (!isTerminal)
        {
            console.Profile.Width = 160;
        }

        return console;
    }

    /// <summary>Returns the message of an exception that the user can do something about; null for errors in the program.</summary>
    public static string? Explanation(Exception exception) =>
        exception switch
        {
            TypeInitializationException when exception.GetBaseException() is DllNotFoundException missing => missing.Message,
            OptionsValidationException validation => string.Join(Environment.NewLine, validation.Failures),
            ArgumentException { ParamName: { Length: > 0 } name } => exception.Message.Replace(
                $" (Parameter '{name}')",
                "",
                StringComparison.Ordinal
            ),
            ArgumentException
            or DllNotFoundException
            or FormatException
            or HttpRequestException
            or InvalidDataException
            or InvalidModelException
            or InvalidOperationException
            or InvalidWeightsException
            or IOException
            or JsonException
            or Distributed.CollectiveException
            or Training.Stages.TrainingDivergedException
            or UnauthorizedAccessException => exception.Message,
            _ => null,
        };
}

/// <summary>Shows the progress of stages: a bar for each stage, or a line when a stage begins and ends and every ten seconds.</summary>
/// <param name="output">Receives the lines.</param>
/// <param name="bars">The bars; null for lines.</param>
internal sealed class Stages(TextWriter output, ProgressContext? bars)
{
    private readonly Lock _lock = new();
    private readonly Dictionary<string, (ProgressTask? Bar, DateTime Written)> _stages = new(StringComparer.Ordinal);

    /// <summary>Shows how much of a stage is done.</summary>
    /// <param name="stage">The name of the stage.</param>
    /// <param name="done">The part that is done.</param>
    /// <param name="total">The whole stage.</param>
    /// <param name="note">More to show.</param>
    public void Report(string stage, double done, double total, string note = "")
    {
        lock (_lock)
        {
            var isNew = !_stages.TryGetValue(stage, out var shown);
            total = Math.Max(total, 1e-9);
            if (bars is not null)
            {
                var bar = isNew ? bars.AddTask(Markup.Escape(stage), maxValue: total) : shown.Bar!;
                (bar.MaxValue, bar.Value) = (total, Math.Min(done, total));
                bar.Description = Markup.Escape(note.Length == 0 ? stage : $"{stage} {note}");
                _stages[stage] = (bar, default);
                return;
            }

            var now = DateTime.UtcNow;
            if (isNew || done >= total || now - shown.Written >= TimeSpan.FromSeconds(10))
            {
                _stages[stage] = (null, now);
                var amount = note.Length > 0 ? note : string.Create(CultureInfo.InvariantCulture, $"{done:0.#} of {total:0.#}");
                output.WriteLine($"{stage}: {amount}");
            }
        }
    }
}
