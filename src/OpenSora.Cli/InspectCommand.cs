using System.CommandLine;
using OpenSora.ModelFolders;
using OpenSora.Models;
using OpenSora.Weights;

namespace OpenSora.Cli;

/// <summary>The command <c>opensora inspect</c>.</summary>
internal static class InspectCommand
{
    private static readonly Argument<string> s_path = new("path")
    {
        Description = "A weights file (safetensors, .pt, .pth, .bin, .ckpt), the index of a sharded file, a model folder, or a folder with weights.",
    };

    private static readonly Option<string?> s_section = new("--section")
    {
        Description = "The section (dictionary of tensors) of a PyTorch checkpoint to inspect, such as model. The default is ema if present.",
    };

    private static readonly Option<bool> s_all = new("--all") { Description = "List every tensor." };

    internal static Command Create()
    {
        var command = new Command("inspect", "Shows the contents of weights and the models that they fit, without executing code.")
        {
            s_path,
            s_section,
            s_all,
            CommandLine.Json,
        };
        command.SetAction(Terminal.Action((arguments, terminal, _) => Task.FromResult(Run(arguments, terminal))));
        return command;
    }

    private static int Run(ParseResult arguments, Terminal terminal)
    {
        var (path, section) = (arguments.GetValue(s_path)!, arguments.GetValue(s_section));
        if (!terminal.IsJson)
        {
            new Printer(terminal.CreateConsole(), arguments.GetValue(s_all), Architectures.BuiltIn).Print(path, section);
            return CommandLine.Success;
        }

        var isModel = File.Exists(Path.Combine(path, ModelFolder.FileName));
        terminal.WriteJson(
            new
            {
                Model = isModel ? ModelFolder.Open(path).Description.Name : null,
                Files = Printer.FilesOf(path).Select(file => Describe(file, Directory.Exists(path) ? null : section)).ToList(),
            }
        );
        return CommandLine.Success;
    }

    private static object Describe(string path, string? section)
    {
        using var file = WeightsFile.Open(path, section);
        return new
        {
            file.Path,
            file.Format,
            Sections = file.Sections.Select(each => new { Name = each.Key, Tensors = each.Value }).ToList(),
            Section = file.Section,
            file.Metadata,
            file.Skipped,
            Fits = Fits(file),
            Tensors = file
                .Tensors.Values.Select(entry => new
                {
                    entry.Name,
                    entry.Type,
                    entry.Shape,
                })
                .ToList(),
        };
    }

    // Null without libtorch.
    private static object? Fits(WeightsFile file)
    {
        try
        {
            return Architectures
                .BuiltIn.Recognize(file)
                .Select(match => new
                {
                    match.Architecture,
                    match.Title,
                    match.Sizes,
                    match.Problems,
                })
                .ToList();
        }
        catch (TypeInitializationException exception) when (exception.GetBaseException() is DllNotFoundException)
        {
            return null;
        }
    }
}
