using System.Globalization;
using OpenSora.ModelFolders;
using OpenSora.Models;
using OpenSora.Weights;
using Spectre.Console;

namespace OpenSora.Cli;

/// <summary>Prints the contents of weights files.</summary>
/// <param name="console">The console to print to.</param>
/// <param name="all">true to list every tensor; false to list only the first few.</param>
/// <param name="architectures">The known architectures.</param>
internal sealed class Printer(IAnsiConsole console, bool all, Architectures architectures)
{
    private const int Few = 12;

    /// <summary>Prints the contents of a weights file, a model folder or a folder with weights.</summary>
    /// <exception cref="InvalidWeightsException">The weights are damaged or have an unsupported format.</exception>
    /// <exception cref="InvalidModelException">The description of a model folder is not valid.</exception>
    public void Print(string path, string? section)
    {
        if (!Directory.Exists(path))
        {
            Weights(path, section);
        }
        else if (File.Exists(Path.Combine(path, ModelFolder.FileName)))
        {
            Model(ModelFolder.Open(path));
        }
        else
        {
            Folder(path, section);
        }
    }

    private void Model(ModelFolder folder)
    {
        var description = folder.Description;
        Line($"[bold]{Terminal.Escaped(description.Name)}[/]: a model folder, {Terminal.Escaped(folder.Path)}");
        Line(Terminal.Escaped(description.Description ?? ""));
        foreach (
            var (title, part) in new[]
            {
                ("denoiser", description.Denoiser),
                ("autoencoder", description.Vae),
                ("text encoder", description.TextEncoder),
            }
        )
        {
            Heading($"{title}: {part.Architecture}");
            if (part.Weights is { Length: > 0 } file)
            {
                Weights(Path.Combine(folder.Path, file), null);
            }
            else
            {
                Line("no weights");
            }
        }
    }

    /// <summary>Finds the weights files of a path: the file itself, those of a model folder, or those in a folder and its subfolders.</summary>
    /// <exception cref="InvalidWeightsException">The folder has no weights.</exception>
    public static IReadOnlyList<string> FilesOf(string path)
    {
        if (!Directory.Exists(path))
        {
            return [path];
        }

        if (File.Exists(Path.Combine(path, ModelFolder.FileName)))
        {
            var folder = ModelFolder.Open(path);
            var (denoiser, vae, text) = (folder.Description.Denoiser, folder.Description.Vae, folder.Description.TextEncoder);
            return [.. new[] { denoiser.Weights, vae.Weights, text.Weights }.OfType<string>().Select(name => Path.Combine(folder.Path, name))];
        }

        string[] folders = [path, .. Directory.GetDirectories(path).Order(StringComparer.Ordinal)];
        var files = folders.SelectMany(folder => WeightsFile.InFolder(folder)).ToList();
        return files.Count > 0 ? files : throw new InvalidWeightsException(path, "neither the folder nor its subfolders contain weights.");
    }

    /// <summary>Prints a folder with weights, or with subfolders that contain weights, as in a pipeline from a hub.</summary>
    private void Folder(string path, string? section)
    {
        var files = FilesOf(path);
        foreach (var file in files)
        {
            if (files.Count > 1)
            {
                Heading(Path.GetRelativePath(path, file));
            }

            Weights(file, section);
        }
    }

    private void Weights(string path, string? section)
    {
        using var file = WeightsFile.Open(path, section);
        Line(
            $"[bold]{Terminal.Escaped(Path.GetFileName(file.Path))}[/]: {Terminal.Escaped(file.Format)}, "
                + $"{Terminal.Bytes(file.Tensors.Values.Sum(entry => entry.Length))} of tensors"
        );
        if (file.Sections.Count > 1 || file.Section.Length > 0)
        {
            Line($"sections: {string.Join(", ", file.Sections.Select(section => Section(section.Key, section.Value, file.Section)))}");
        }

        if (file.Skipped.Count > 0)
        {
            var shown = Terminal.Escaped(string.Join(", ", file.Skipped.Take(all ? int.MaxValue : Few)));
            Line($"skipped objects: {shown}{(file.Skipped.Count > Few && !all ? ", ..." : "")}");
        }

        foreach (var (key, value) in file.Metadata.Take(all ? int.MaxValue : Few))
        {
            Line(
                $"{Terminal.Escaped(key)} = {Terminal.Escaped(value.Length > 200 && !all ? $"{value[..200]}... ({value.Length} characters)" : value)}"
            );
        }

        var types = file.Tensors.Values.GroupBy(entry => entry.Type, StringComparer.Ordinal).OrderByDescending(Numbers);
        var elements = types.Select(group => $"{group.Count()} of {Terminal.Escaped(group.Key)} with {Number(Numbers(group))} elements");
        Line($"{file.Tensors.Count} tensors: {string.Join("; ", elements)}");
        try
        {
            Fits(architectures.Recognize(file));
        }
        catch (TypeInitializationException exception) when (exception.GetBaseException() is DllNotFoundException missing)
        {
            Line($"[yellow]the models that it fits are unknown:[/] {Terminal.Escaped(missing.Message)}");
        }
        Tensors(file);
    }

    private static string Section(string name, int tensors, string selected) =>
        $"{Terminal.Escaped(name.Length == 0 ? "(outermost)" : name)} ({tensors} tensors"
        + $"{(name.Equals(selected, StringComparison.Ordinal) ? ", selected" : "")})";

    private void Fits(IReadOnlyList<WeightsMatch> fits)
    {
        if (fits.Count == 0)
        {
            Line("[yellow]fits no known architecture[/]");
            return;
        }

        var complete = fits.Where(fit => fit.Problems == 0).ToList();
        foreach (var fit in complete.Count > 0 ? complete : [fits[0]])
        {
            var report = fit.Report;
            Line(
                (fit.Problems == 0 ? "[green]fits[/] " : "[yellow]closest:[/] ")
                    + $"[bold]{Terminal.Escaped(fit.Title)}[/]{(fit.Sizes.Length > 0 ? $" ({Terminal.Escaped(fit.Sizes)})" : "")}"
            );
            (string What, IReadOnlyList<string> Names)[] lists =
            [
                ("loaded", report.Loaded),
                ("loaded after reshaping", report.Reshaped),
                ("initialized", report.Initialized),
                ("dropped", report.Dropped),
                ("missing", report.Missing),
                ("unexpected", report.Unexpected),
                ("with a different shape or type", report.Mismatched),
            ];
            foreach (var (what, names) in lists.Where(list => list.Names.Count > 0))
            {
                var shown = Terminal.Escaped(string.Join(", ", names.Take(all ? int.MaxValue : 4))) + (names.Count > 4 && !all ? ", ..." : "");
                Line($"  {names.Count} {what}{(what is "loaded" ? "" : $": {shown}")}");
            }

            if (report.Unwrapped.Count > 0)
            {
                Line($"  extracted from {Terminal.Escaped(string.Join(", ", report.Unwrapped))}");
            }
        }

        if (complete.Count > 1)
        {
            Line("The names and shapes fit all of these; the file does not specify which one is intended.");
        }
    }

    private void Tensors(WeightsFile file)
    {
        var table = new Table().Border(TableBorder.Simple).AddColumns("tensor", "type", "shape");
        table.AddColumn(new TableColumn("elements").RightAligned());
        foreach (var entry in file.Tensors.Values.Take(all ? int.MaxValue : Few))
        {
            table.AddRow(
                Terminal.Escaped(entry.Name),
                Terminal.Escaped(entry.Type),
                string.Join(" x ", entry.Shape) + (entry.Strides is null ? "" : " (strided)"),
                Number(entry.Elements)
            );
        }

        console.Write(table);
        if (file.Tensors.Count > Few && !all)
        {
            Line($"and {file.Tensors.Count - Few} more; --all lists them");
        }
    }

    private void Heading(string text)
    {
        console.WriteLine();
        console.Write(new Rule(Terminal.Escaped(text)).LeftJustified());
    }

    private void Line(string markup) => console.MarkupLine(markup);

    // With strides of 0, small files can declare large tensors.
    private static Int128 Numbers(IEnumerable<TensorEntry> entries) => entries.Aggregate(Int128.Zero, (sum, entry) => sum + entry.Elements);

    private static string Number(Int128 number) => number.ToString("N0", CultureInfo.InvariantCulture);
}
