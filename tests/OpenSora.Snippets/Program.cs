// Runs the compiled C# blocks of the documentation, each in an empty folder of its own.
// dotnet OpenSora.Snippets.dll FOLDER: for each NAME.dll of the folder, writes NAME.result, which is empty if the program ended without an exception.
using System.Diagnostics;
using System.Globalization;
using System.Reflection;

foreach (var program in Directory.EnumerateFiles(args[0], "*.dll").Order(StringComparer.Ordinal))
{
    var name = Path.GetFileNameWithoutExtension(program);
    var result = "";
    var watch = Stopwatch.StartNew();
    Directory.SetCurrentDirectory(Directory.CreateDirectory(Path.Combine(args[0], name)).FullName);
    try
    {
        // The entry point of an asynchronous program waits for the program to end.
        var main = Assembly.LoadFrom(program).EntryPoint!;
        main.Invoke(null, BindingFlags.DoNotWrapExceptions, null, main.GetParameters().Length == 0 ? [] : [Array.Empty<string>()], null);
    }
    catch (Exception e)
    {
        result = e.ToString();
    }
    Console.WriteLine(
        string.Create(CultureInfo.InvariantCulture, $"{name}: {watch.Elapsed.TotalSeconds:0.0} s{(result.Length > 0 ? " FAILED" : "")}")
    );
    await File.WriteAllTextAsync(Path.Combine(args[0], name + ".result"), result);
}
