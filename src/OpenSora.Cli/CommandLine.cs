using System.CommandLine;
using System.CommandLine.Help;
using System.CommandLine.Invocation;
using System.Globalization;

namespace OpenSora.Cli;

/// <summary>The commands of <c>opensora</c>, and what they have in common.</summary>
internal static class CommandLine
{
    /// <summary>The command did what it was asked to do.</summary>
    public const int Success = 0;

    /// <summary>The command failed because of its input, or because of the machine.</summary>
    public const int Failure = 1;

    /// <summary>The arguments are wrong.</summary>
    public const int Usage = 2;

    /// <summary>The command was canceled, as with Ctrl+C.</summary>
    public const int Canceled = 130;

    /// <summary>The option for output in JSON, which every command with output has.</summary>
    public static readonly Option<bool> Json = new("--json")
    {
        Description = "Write one JSON document to standard output. Progress and messages are written to standard error.",
    };

    private static readonly Lazy<RootCommand> s_root = new(CreateRoot);

    /// <summary>The command with all subcommands.</summary>
    public static RootCommand Root => s_root.Value;

    /// <summary>Runs a command.</summary>
    /// <param name="args">The arguments.</param>
    /// <param name="output">Receives the output; null for the console, where Ctrl+C cancels the command.</param>
    /// <param name="error">Receives messages and progress; null for the console.</param>
    /// <param name="cancellationToken">Cancels the command.</param>
    /// <returns>The exit code.</returns>
    public static async Task<int> RunAsync(
        string[] args,
        TextWriter? output = null,
        TextWriter? error = null,
        CancellationToken cancellationToken = default
    )
    {
        var configuration = new InvocationConfiguration
        {
            Output = output ?? Console.Out,
            Error = error ?? Console.Error,
            ProcessTerminationTimeout = output is null ? TimeSpan.FromSeconds(30) : null,
        };
        var result = Root.Parse(args);
        if (result.Action is HelpAction)
        {
            // Help has the name of the program's file, not that of the tool.
            using var help = new StringWriter(CultureInfo.InvariantCulture);
            (configuration.Output, var target) = (help, configuration.Output);
            var code = await result.InvokeAsync(configuration, cancellationToken).ConfigureAwait(false);
            var text = help.ToString().Replace($"  {RootCommand.ExecutableName} ", "  opensora ", StringComparison.Ordinal);
            await target.WriteAsync(text).ConfigureAwait(false);
            return code;
        }

        if (result.Errors.Count == 0 || result.Action is not ParseErrorAction)
        {
            return await result.InvokeAsync(configuration, cancellationToken).ConfigureAwait(false);
        }

        var name = string.Join(' ', Names(result.CommandResult.Command));
        foreach (var message in result.Errors.Select(problem => problem.Message).Distinct(StringComparer.Ordinal))
        {
            await configuration.Error.WriteLineAsync(message).ConfigureAwait(false);
        }

        await configuration.Error.WriteLineAsync($"'{name} --help' describes the arguments.").ConfigureAwait(false);
        return Usage;
    }

    private static IEnumerable<string> Names(Command command) =>
        command is RootCommand ? ["opensora"] : [.. Names(command.Parents.OfType<Command>().First()), command.Name];

    private static RootCommand CreateRoot() =>
        new("Generates videos from text, and trains models that do.")
        {
            GenerateCommand.Create(),
            TrainCommand.Create(),
            PlanCommand.Create(),
            PrepareCommand.Create(),
            ModelsCommand.Create(),
            InspectCommand.Create(),
            BenchCommand.Create(),
            DiagnoseCommand.Create(),
            SetupCommand.Create(),
            CompletionCommand.Create(),
        };
}
